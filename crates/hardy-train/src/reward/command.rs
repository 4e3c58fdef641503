//! A reward from a program of the user's: one process that is kept alive, a JSON line in for every response, a JSON line
//! out. What it may not do (hang, die, answer twice, answer without a number) ends the step with the response named.
//!
//! In: `{"id": 7, "prompt": …, "response": …, "truth": …, "extra": …}`. Out: `{"reward": 0.5}`, with any further numbers
//! as named metrics (`true` counts 1), and with `"id": 7` if the program echoes it, which is then checked.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel},
    },
    thread,
    time::Duration,
};

use serde::Serialize;
use serde_json::{Map, Value};

/// The longest line that is read; a program that writes more without a line break floods its output.
const LONGEST_LINE: u64 = 1 << 20;
/// What is kept of the program's standard error, to be told when it dies.
const LAST_WORDS: usize = 2000;

/// What a program is asked to judge.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Question<'a> {
    /// The number of the question, from 0.
    pub id: u64,
    /// The prompt's text.
    pub prompt: &'a str,
    /// The response's text.
    pub response: &'a str,
    /// The true answer.
    pub truth: &'a str,
    /// What else the data set says of the problem.
    pub extra: &'a Value,
}

/// What a program said of a response.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The reward.
    pub reward: f32,
    /// Its further numbers, by name.
    pub metrics: BTreeMap<String, f64>,
}

/// A program that judges responses, running.
#[derive(Debug)]
pub struct Grader {
    name: String,
    child: Child,
    questions: SyncSender<String>,
    lines: Receiver<Result<String, String>>,
    last_words: Arc<Mutex<Vec<u8>>>,
    limit: Duration,
    asked: u64,
}

impl Grader {
    /// Starts `command`, whose first word is the program; every answer may take `limit`.
    ///
    /// # Errors
    /// No command, or one that can not be started.
    pub fn start(command: &[String], limit: Duration) -> Result<Self, String> {
        let [program, arguments @ ..] = command else { return Err("`command` names no program".to_owned()) };
        let name = command.join(" ");
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("`{name}` can not be started: {error}"))?;
        let closed = || format!("`{name}`: its pipes could not be opened");
        let (mut stdin, stdout, stderr) = match (child.stdin.take(), child.stdout.take(), child.stderr.take())
        {
            (Some(stdin), Some(stdout), Some(stderr)) => (stdin, stdout, stderr),
            _ => return Err(closed()),
        };
        // One line ahead at most, so that a program that floods its output waits.
        let (send, lines) = sync_channel(1);
        thread::spawn(move || read_lines(BufReader::new(stdout), &send));
        // A program that does not read would block whoever writes more than its pipe holds.
        let (questions, to_ask) = sync_channel::<String>(1);
        thread::spawn(move || {
            while let Ok(line) = to_ask.recv() {
                if stdin.write_all(line.as_bytes()).and_then(|()| stdin.flush()).is_err() {
                    return;
                }
            }
        });
        let last_words = Arc::default();
        let keep = Arc::clone(&last_words);
        thread::spawn(move || keep_last(stderr, &keep));
        Ok(Self { name, child, questions, lines, last_words, limit, asked: 0 })
    }

    /// Asks for the reward of one response.
    ///
    /// # Errors
    /// A program that died, takes too long, wrote something unasked, or did not answer with a finite number; the error
    /// names the program and the response.
    pub fn ask(&mut self, question: Question<'_>) -> Result<Answer, String> {
        let question = Question { id: self.asked, ..question };
        self.asked += 1;
        let wrong = |grader: &mut Self, what: &str| {
            let (name, id, response) = (&grader.name, question.id, beginning(question.response));
            format!("`{name}` {what} (response {id}: {response:?})")
        };
        self.refuse_unasked().map_err(|what| wrong(self, &what))?;
        let mut line = serde_json::to_string(&question).unwrap_or_default();
        line.push('\n');
        if self.questions.send(line).is_err() {
            let what = self.death();
            return Err(wrong(self, &what));
        }
        let said = match self.lines.recv_timeout(self.limit) {
            Ok(Ok(said)) => said,
            Ok(Err(what)) => return Err(wrong(self, &what)),
            Err(RecvTimeoutError::Timeout) => {
                let seconds = self.limit.as_secs_f64();
                return Err(wrong(self, &format!("did not answer within {seconds} s")));
            }
            Err(RecvTimeoutError::Disconnected) => {
                let what = self.death();
                return Err(wrong(self, &what));
            }
        };
        parse(&said, question.id).map_err(|what| wrong(self, &what))
    }

    /// Checks that the program runs and has written nothing unasked; `patience` is how long a line may be under way.
    ///
    /// # Errors
    /// It ended, or wrote a line more than it was asked for.
    pub fn check(&mut self, patience: Duration) -> Result<(), String> {
        let said = match self.lines.recv_timeout(patience) {
            Err(RecvTimeoutError::Timeout) => return Ok(()),
            Ok(Ok(line)) => format!("wrote a line that nothing was asked for: {:?}", beginning(&line)),
            Ok(Err(what)) => what,
            Err(RecvTimeoutError::Disconnected) => self.death(),
        };
        Err(format!("`{}` {said}", self.name))
    }

    /// A line before anything was asked would be taken for the answer to the next question.
    fn refuse_unasked(&mut self) -> Result<(), String> {
        match self.lines.try_recv() {
            Ok(Ok(line)) => Err(format!("wrote a line that nothing was asked for: {:?}", beginning(&line))),
            Ok(Err(what)) => Err(what),
            Err(TryRecvError::Disconnected) => Err(self.death()),
            Err(TryRecvError::Empty) => Ok(()),
        }
    }

    /// How the program ended, with the last it wrote to standard error.
    fn death(&mut self) -> String {
        // What closed its output may take a moment to end.
        let ended = (0..20).find_map(|_| {
            let status = self.child.try_wait().ok().flatten();
            if status.is_none() {
                thread::sleep(Duration::from_millis(10));
            }
            status
        });
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        let words = String::from_utf8_lossy(&words).trim().to_owned();
        let how = ended.map_or_else(|| "closed its output".to_owned(), |status| format!("ended ({status})"));
        if words.is_empty() { how } else { format!("{how}, saying: {words}") }
    }
}

impl Drop for Grader {
    fn drop(&mut self) {
        // It is ours alone; what it does with a closed input is not waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends every line on, until the output ends or nobody listens.
fn read_lines(mut from: impl BufRead, to: &SyncSender<Result<String, String>>) {
    loop {
        let mut line = Vec::new();
        let read = from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line);
        let said = match read {
            Ok(0) | Err(_) => return,
            Ok(_) if line.len() as u64 == LONGEST_LINE => {
                Err(format!("wrote a line of over {LONGEST_LINE} bytes"))
            }
            Ok(_) => String::from_utf8(line).map_err(|_| "wrote a line that is not UTF-8".to_owned()),
        };
        let last = said.is_err();
        if to.send(said).is_err() || last {
            return;
        }
    }
}

fn keep_last(mut from: impl Read, words: &Mutex<Vec<u8>>) {
    let mut part = [0; 1024];
    while let Ok(read @ 1..) = from.read(&mut part) {
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        words.extend_from_slice(&part[..read]);
        let excess = words.len().saturating_sub(LAST_WORDS);
        words.drain(..excess);
    }
}

/// The answer in a line.
fn parse(line: &str, id: u64) -> Result<Answer, String> {
    let line = line.trim_end();
    let shown = beginning(line);
    let object: Map<String, Value> = serde_json::from_str(line).map_err(|_| {
        format!("must answer with a JSON object such as {{\"reward\": 1.0}}, but wrote {shown:?}")
    })?;
    if object.get("id").is_some_and(|echoed| *echoed != id) {
        return Err(format!("answered another question: {shown:?}"));
    }
    let reward = object.get("reward").and_then(Value::as_f64).map(|reward| reward as f32);
    let Some(reward) = reward.filter(|reward| reward.is_finite()) else {
        return Err(format!("must give `reward` as a finite number, but wrote {shown:?}"));
    };
    let metrics = object.into_iter().filter(|(key, _)| key != "reward" && key != "id");
    let number =
        |value: Value| value.as_f64().or_else(|| value.as_bool().map(|yes| f64::from(u8::from(yes))));
    let metrics = metrics.filter_map(|(key, value)| Some((key, number(value)?))).collect();
    Ok(Answer { reward, metrics })
}

/// As much of a text as fits into a message.
fn beginning(text: &str) -> String {
    let mut shown: String = text.chars().take(80).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grader(script: &str, seconds: f64) -> Grader {
        let command = ["sh", "-c", script].map(str::to_owned);
        Grader::start(&command, Duration::from_secs_f64(seconds)).unwrap()
    }

    fn ask(grader: &mut Grader, response: &str) -> Result<Answer, String> {
        grader.ask(Question { id: 0, prompt: "p", response, truth: "4", extra: &Value::Null })
    }

    /// Answers every line with what the script prints for it.
    fn answering(each: &str) -> Grader {
        grader(&format!("while read -r line; do {each}; done"), 10.0)
    }

    #[test]
    fn one_process_answers_many_questions_with_named_metrics() {
        let mut grader =
            answering(r#"n=$((n+1)); echo "{\"reward\": 0.$n, \"steps\": $n, \"note\": \"x\"}""#);
        for n in 1..4 {
            let answer = ask(&mut grader, "r").unwrap();
            assert!((f64::from(answer.reward) - f64::from(n) / 10.0).abs() < 1e-6);
            assert_eq!(answer.metrics, BTreeMap::from([("steps".to_owned(), f64::from(n))]));
        }
    }

    #[test]
    fn an_echoed_number_must_be_the_questions() {
        let mut echoing = answering(r#"echo '{"reward": 1, "id": 0}'"#);
        assert_eq!(ask(&mut echoing, "r").unwrap().reward, 1.0);
        assert!(ask(&mut echoing, "r").unwrap_err().contains("answered another question"));
    }

    #[test]
    fn a_program_that_dies_is_named_with_its_last_words_and_the_response() {
        let mut dying = grader("read -r line; echo 'no such module' >&2; exit 3", 10.0);
        let error = ask(&mut dying, "my response").unwrap_err();
        for part in ["exit status: 3", "no such module", "response 0", "my response", "`sh -c"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(Grader::start(&["no-such-program-at-all".to_owned()], Duration::ZERO).is_err());
    }

    #[test]
    fn a_program_that_hangs_is_not_waited_for() {
        let mut hanging = grader("sleep 60", 0.2);
        assert!(ask(&mut hanging, "r").unwrap_err().contains("did not answer within 0.2 s"));
    }

    #[test]
    fn answers_that_are_no_finite_number_are_refused() {
        for (said, part) in [
            ("nonsense", "JSON object"),
            ("[1]", "JSON object"),
            (r#"{"reward": NaN}"#, "JSON object"),
            (r#"{"reward": 1e999}"#, "JSON object"),
            (r#"{"reward": 1e60}"#, "finite number"),
            (r#"{"reward": "1"}"#, "finite number"),
            (r#"{"score": 1}"#, "finite number"),
        ] {
            let error = ask(&mut answering(&format!("echo '{said}'")), "r").unwrap_err();
            assert!(error.contains(part), "{said}: {error}");
        }
    }

    #[test]
    fn a_second_line_for_one_question_is_noticed() {
        let mut twice = answering(r#"echo '{"reward": 1}'; echo '{"reward": 0}'"#);
        ask(&mut twice, "r").unwrap();
        thread::sleep(Duration::from_millis(300));
        assert!(ask(&mut twice, "s").unwrap_err().contains("nothing was asked for"));
    }

    #[test]
    fn a_line_too_many_is_noticed_at_the_end_at_the_latest() {
        let mut twice = answering(r#"echo '{"reward": 1}'; echo '{"reward": 0}'"#);
        let shifted = (0..3).find_map(|_| ask(&mut twice, "r").err());
        let found = shifted.or_else(|| twice.check(Duration::from_millis(500)).err());
        assert!(found.is_some_and(|error| error.contains("nothing was asked for")));
        let mut once = answering(r#"echo '{"reward": 1}'"#);
        ask(&mut once, "r").unwrap();
        assert_eq!(once.check(Duration::from_millis(50)), Ok(()));
    }

    #[test]
    fn a_program_that_does_not_read_is_not_waited_for() {
        let mut deaf = grader("sleep 60", 0.2);
        assert!(ask(&mut deaf, &"long ".repeat(200_000)).unwrap_err().contains("did not answer within"));
    }

    #[test]
    fn a_flood_without_line_breaks_ends_it() {
        let mut flooding = grader("read -r line; yes | tr -d '\\n'", 10.0);
        assert!(ask(&mut flooding, "r").unwrap_err().contains("bytes"));
    }
}
