//! Workers over TCP, each connected to each, for launchers that bring no transport of their own. Plain and unencrypted:
//! for one machine, or a network in which everybody may be trusted; by default only the loopback address is listened at.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, TcpListener, TcpStream, ToSocketAddrs},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::Transport;
use crate::error::{Error, Result};

/// What every connection begins with, so that strangers are told apart.
const HELLO: &[u8; 8] = b"hardy-w1";
/// The length that announces the reason of a worker that ends early: its number, then the text.
const FAREWELL: u64 = u64::MAX;
/// Bytes of a message, at most: a larger length is no length.
const MOST: u64 = 1 << 40;

/// Workers over TCP.
#[derive(Debug)]
pub struct Tcp {
    rank: usize,
    /// The connection to every other worker; `None` to itself.
    peers: Vec<Option<Mutex<TcpStream>>>,
    bytes: AtomicU64,
    messages: AtomicU64,
}

/// Meets the other workers at `address`, where worker 0 listens, waiting for them up to `patience`.
///
/// # Errors
/// An address that can not be used; workers that do not come, or come twice.
pub fn connect([rank, size]: [usize; 2], address: &str, port: u16, patience: Duration) -> Result<Tcp> {
    let until = Instant::now() + patience;
    let place = format!("{address}:{port}");
    let failed =
        |error: io::Error| Error::Worker(format!("worker {rank} of {size}, meeting at {place}: {error}"));
    let mut peers: Vec<Option<TcpStream>> = (0..size).map(|_| None).collect();
    if rank == 0 {
        let listener = TcpListener::bind(&place).map_err(failed)?;
        accept(&listener, &mut peers, 1..size, until).map_err(failed)?;
        let mut table = Vec::new();
        for peer in peers.iter_mut().flatten() {
            let own = peer.peer_addr().map_err(failed)?.ip();
            table.push((own, read_u64(peer).map_err(failed)? as u16));
        }
        for peer in peers.iter_mut().flatten() {
            for (ip, port) in &table {
                let text = format!("{ip}");
                write_frame(peer, text.as_bytes())
                    .and_then(|()| write_u64(peer, u64::from(*port)))
                    .map_err(failed)?;
            }
        }
    } else {
        let mut first = knock(&place, rank, until).map_err(failed)?;
        let listener = TcpListener::bind((first.local_addr().map_err(failed)?.ip(), 0)).map_err(failed)?;
        let own = listener.local_addr().map_err(failed)?.port();
        write_u64(&mut first, own.into()).map_err(failed)?;
        let mut table = Vec::new();
        for _ in 1..size {
            let ip = read_frame(&mut first).map_err(failed)?;
            let port = read_u64(&mut first).map_err(failed)? as u16;
            let ip: IpAddr =
                String::from_utf8_lossy(&ip).parse().map_err(|_| failed(ErrorKind::InvalidData.into()))?;
            table.push((ip, port));
        }
        peers[0] = Some(first);
        for (other, (ip, port)) in (1..rank).zip(&table) {
            peers[other] = Some(knock((*ip, *port), rank, until).map_err(failed)?);
        }
        accept(&listener, &mut peers, rank + 1..size, until).map_err(failed)?;
    }
    for peer in peers.iter().flatten() {
        peer.set_nodelay(true).and_then(|()| peer.set_read_timeout(None)).map_err(failed)?;
    }
    let peers = peers.into_iter().map(|peer| peer.map(Mutex::new)).collect();
    Ok(Tcp { rank, peers, bytes: AtomicU64::new(0), messages: AtomicU64::new(0) })
}

/// Waits for the workers `wanted`.
fn accept(
    listener: &TcpListener,
    peers: &mut [Option<TcpStream>],
    wanted: std::ops::Range<usize>,
    until: Instant,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    while wanted.clone().any(|rank| peers[rank].is_none()) {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if Instant::now() > until {
                    let missing: Vec<String> =
                        wanted.filter(|&rank| peers[rank].is_none()).map(|rank| rank.to_string()).collect();
                    return Err(io::Error::other(format!(
                        "worker {} did not come in time",
                        missing.join(", ")
                    )));
                }
                thread::sleep(Duration::from_millis(5));
                continue;
            }
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut hello = [0; 8];
        // Whoever says something else is no worker.
        if stream.read_exact(&mut hello).is_err() || hello != *HELLO {
            continue;
        }
        let rank = read_u64(&mut stream)? as usize;
        if !wanted.contains(&rank) || peers[rank].is_some() {
            return Err(io::Error::other(format!(
                "a worker came as {rank}, which was not awaited: is RANK given twice?"
            )));
        }
        stream.set_read_timeout(None)?;
        peers[rank] = Some(stream);
    }
    Ok(())
}

/// Connects to a worker that listens, or will.
fn knock(place: impl ToSocketAddrs, rank: usize, until: Instant) -> io::Result<TcpStream> {
    loop {
        match TcpStream::connect(&place) {
            Ok(mut stream) => {
                stream.write_all(HELLO)?;
                write_u64(&mut stream, rank as u64)?;
                return Ok(stream);
            }
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

impl Transport for Tcp {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.peers.len()
    }

    fn exchange(&self, mut outgoing: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        let mut incoming: Vec<Vec<u8>> = self.peers.iter().map(|_| Vec::new()).collect();
        incoming[self.rank] = std::mem::take(&mut outgoing[self.rank]);
        let others = || self.peers.iter().enumerate().filter_map(|(rank, peer)| Some((rank, peer.as_ref()?)));
        let mut streams = Vec::new();
        for (rank, peer) in others() {
            streams.push((rank, lock(peer).try_clone().map_err(|error| gone(rank, &error))?));
        }
        // Written from threads of their own: two workers that both write first would wait for each other for ever. Everybody
        // is read from, whoever is gone: only then do all messages come to an end, so that a farewell is in none's middle.
        let mut failed = None;
        thread::scope(|scope| {
            for (rank, peer) in others() {
                let bytes = &outgoing[rank];
                self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                self.messages.fetch_add(1, Ordering::Relaxed);
                // Whoever can not be written to is found gone when read from.
                scope.spawn(move || write_frame(&mut *lock(peer), bytes));
            }
            for (rank, stream) in &streams {
                match read_frame(&mut &*stream) {
                    Ok(bytes) => incoming[*rank] = bytes,
                    Err(error) => {
                        let _ = stream.shutdown(Shutdown::Both);
                        failed.get_or_insert_with(|| gone(*rank, &error));
                    }
                }
            }
        });
        let Some(error) = failed else { return Ok(incoming) };
        self.farewell(&error.to_string());
        Err(error)
    }

    fn sent(&self) -> [u64; 2] {
        [&self.bytes, &self.messages].map(|count| count.load(Ordering::Relaxed))
    }

    fn farewell(&self, reason: &str) {
        for peer in self.peers.iter().flatten() {
            let mut stream = lock(peer);
            // Nobody may be there any more.
            let _ = stream.set_write_timeout(Some(Duration::from_secs(2)));
            let _ =
                write_u64(&mut *stream, FAREWELL).and_then(|()| write_frame(&mut *stream, reason.as_bytes()));
            let _ = stream.shutdown(Shutdown::Write);
        }
        // What is left unread when a connection closes resets it, and takes the reason from whoever has not read it yet.
        for peer in self.peers.iter().flatten() {
            let mut stream = lock(peer);
            let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
            let _ = io::copy(&mut *stream, &mut io::sink());
        }
    }
}

fn lock(peer: &Mutex<TcpStream>) -> MutexGuard<'_, TcpStream> {
    peer.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gone(rank: usize, error: &io::Error) -> Error {
    match error.kind() {
        ErrorKind::Other => Error::Worker(error.to_string()),
        ErrorKind::UnexpectedEof => Error::Worker(format!("worker {rank} is gone: it closed its connection")),
        _ => Error::Worker(format!("worker {rank} is gone: {error}")),
    }
}

fn write_u64(stream: &mut impl Write, number: u64) -> io::Result<()> {
    stream.write_all(&number.to_le_bytes())
}

fn read_u64(stream: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn write_frame(stream: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    write_u64(stream, bytes.len() as u64)?;
    stream.write_all(bytes)
}

/// A message; the reason of a worker that said farewell is an error.
fn read_frame(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let len = read_u64(stream)?;
    if len == FAREWELL {
        let reason = read_frame(stream)?;
        return Err(io::Error::other(String::from_utf8_lossy(&reason).into_owned()));
    }
    if len > MOST {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    stream.take(len).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == len { Ok(bytes) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::workers::Workers;

    /// Runs `work` on so many workers at once; gives what each said.
    pub fn on<T: Send>(size: usize, work: impl Fn(Workers) -> T + Sync) -> Vec<T> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        thread::scope(|scope| {
            let worker = |rank| {
                let work = &work;
                scope.spawn(move || {
                    let tcp = connect([rank, size], "127.0.0.1", port, Duration::from_secs(20)).unwrap();
                    work(Workers::over(Arc::new(tcp)))
                })
            };
            let all: Vec<_> = (0..size).map(worker).collect();
            all.into_iter().map(|worker| worker.join().unwrap()).collect()
        })
    }

    #[test]
    fn everybody_gathers_what_everybody_has_and_sums_are_made_in_the_order_of_workers() {
        for size in [2, 3, 5] {
            let found = on(size, |workers| {
                let rank = workers.rank();
                let all = workers.gather(vec![rank as u64; rank]).unwrap();
                let first = workers.of_first(10 + rank as u64).unwrap();
                let own: Vec<Vec<f32>> = vec![(0..7).map(|i| 0.1 * (i + rank) as f32).collect()];
                let add = |vectors: Vec<Vec<Vec<f32>>>| {
                    let mut sum = vec![0.0; vectors[0][0].len()];
                    vectors
                        .iter()
                        .flatten()
                        .for_each(|v| sum.iter_mut().zip(v).for_each(|(sum, x)| *sum += x));
                    sum
                };
                (all, first, workers.reduce(&own, 7, add).unwrap())
            });
            let mut sum = vec![0.0f32; 7];
            (0..size).for_each(|rank| (0..7).for_each(|i| sum[i] += 0.1 * (i + rank) as f32));
            for (all, first, reduced) in found {
                assert_eq!(all, (0..size).map(|rank| vec![rank as u64; rank]).collect::<Vec<_>>());
                assert_eq!((first, &reduced), (10, &sum));
            }
        }
    }

    #[test]
    fn a_worker_that_ends_early_is_named_to_all_with_its_reason() {
        let said = on(3, |workers| {
            if workers.rank() == 1 {
                workers.farewell("worker 1: the disk is full");
                return String::new();
            }
            workers.gather(0u8).unwrap_err().to_string()
        });
        assert_eq!(
            (said[0].as_str(), said[2].as_str()),
            ("worker 1: the disk is full", "worker 1: the disk is full")
        );
        let said = on(3, |workers| {
            if workers.rank() == 2 { String::new() } else { workers.gather(0u8).unwrap_err().to_string() }
        });
        assert!(said[..2].iter().all(|said| said.contains("worker 2 is gone")), "{said:?}");
    }

    #[test]
    fn a_worker_that_dies_while_others_write_is_named_by_all() {
        for _ in 0..20 {
            let said = on(4, |workers| {
                let mine = vec![0x55u8; 3 << 20];
                if workers.rank() == 1 {
                    String::new()
                } else {
                    workers.gather(mine).unwrap_err().to_string()
                }
            });
            let others = [0, 2, 3].map(|rank| &said[rank]);
            assert!(others.iter().all(|said| said.contains("worker 1 is gone")), "{}", said[2].len());
        }
    }

    #[test]
    fn a_worker_that_does_not_come_is_named() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let said = connect([0, 3], "127.0.0.1", port, Duration::from_millis(50)).unwrap_err().to_string();
        assert!(said.contains("worker 1, 2 did not come in time"), "{said}");
    }
}
