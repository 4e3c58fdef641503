//! `watch`: a page on loopback for whoever has a browser, on however few threads.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use crate::support::{arg, command, refuses};

/// A server that ends with the test.
struct Watching(Child, String);

impl Watching {
    fn over(directory: &Path, more: &[&str]) -> Self {
        let arguments = [&["watch", arg(directory), "--port", "0"], more].concat();
        let mut child = command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
        Self(child, address)
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.1).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn begin(run: &Path, steps: u64) {
    fs::create_dir_all(run).unwrap();
    fs::write(run.join("config.toml"), "name = \"mine\"\n[train]\nsteps = 9\n").unwrap();
    let line = |step: u64| format!("{{\"step\":{step},\"reward_mean\":0.25,\"step_seconds\":1}}\n");
    fs::write(run.join("metrics.jsonl"), (1..=steps).map(line).collect::<String>()).unwrap();
}

#[test]
fn a_run_is_watched_in_a_browser_on_a_single_thread_and_the_page_says_what_to_do_next() {
    let directory = tempfile::tempdir().unwrap();
    begin(&directory.path().join("mine"), 3);
    let server = Watching::over(directory.path(), &["--threads", "1"]);
    assert!(server.get("/").contains("watch.js"));
    let page = server.get("/now");
    for part in ["<b>mine</b>", "3 / 9", "running", "hardy report", "hardy compare"] {
        assert!(page.contains(part), "`{part}` is not in: {page}");
    }
    // Somebody listens, so that the directories are looked at again.
    begin(&directory.path().join("mine"), 5);
    let follows = |_| {
        std::thread::sleep(Duration::from_millis(250));
        server.get("/now").contains("5 / 9")
    };
    assert!((0..80).any(follows), "{}", server.get("/now"));
    assert!(server.get("/../config.toml").starts_with("HTTP/1.1 404"));
}

#[test]
fn what_others_could_read_or_what_is_not_there_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    refuses(&["watch", arg(directory.path()), "--host", "0.0.0.0"], &["0.0.0.0", "--allow-remote"]);
    refuses(&["watch", arg(&directory.path().join("absent"))], &["absent"]);
}
