//! As much of HTTP as a service on a trusted network asks for: a request, and its whole answer, unencrypted (RFC 9112). In
//! version 1.0, in which the answer ends where the connection does.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

/// How long a service may be silent.
const SILENCE: Duration = Duration::from_secs(30);
/// Bytes of an answer, at most.
const MOST: u64 = 1 << 30;

/// Sends a request to `host`, `NAME:PORT`; gives the status and the body of the answer.
///
/// # Errors
/// A host that is not there, or an answer that is none.
pub fn request(host: &str, method: &str, path: &str, body: Option<&str>) -> io::Result<(u16, String)> {
    let address = host.to_socket_addrs()?.next().ok_or(ErrorKind::NotFound)?;
    let mut stream = TcpStream::connect_timeout(&address, SILENCE)?;
    stream.set_read_timeout(Some(SILENCE))?;
    let body = body.unwrap_or_default();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "the answer is not HTTP"))
}

/// Status and body.
fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let status =
        std::str::from_utf8(&answer[..end]).ok()?.strip_prefix("HTTP/")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, String::from_utf8_lossy(&answer[end + 4..]).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_status_and_its_body() {
        let parsed = parse(b"HTTP/1.1 404 Not Found\r\nA: b\r\n\r\nno\r\n\r\nsuch").unwrap();
        assert_eq!(parsed, (404, "no\r\n\r\nsuch".to_owned()));
        for wrong in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\n",
            b"SSH-2.0\r\n\r\n",
            b"HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 x y\r\n\r\n",
        ] {
            assert_eq!(parse(wrong), None);
        }
    }
}
