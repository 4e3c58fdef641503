//! What an exchange of each with each costs over TCP on this machine: seconds by the number of workers and the bytes that each
//! hands to each, one JSON line a size. benches/workers.py fits a latency and a rate to them.

use std::{
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use hardy_train::workers::{Tcp, Transport, connect};

/// Exchanges of a size, of which the median counts.
const TIMES: usize = 41;

fn main() {
    for size in [2, 4, 8] {
        for bytes in [8, 4096, 1 << 16, 1 << 18, 1 << 20, 1 << 22] {
            let seconds = exchange(size, bytes);
            println!("{{\"workers\": {size}, \"bytes\": {bytes}, \"seconds\": {seconds:e}}}");
        }
    }
}

/// The seconds of one exchange among so many workers, each of which hands so many bytes to each.
fn exchange(size: usize, bytes: usize) -> f64 {
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let worker = |rank: usize| {
        let tcp =
            connect([rank, size], "127.0.0.1", port, Duration::from_secs(20)).expect("workers that meet");
        timed(&tcp, bytes)
    };
    thread::scope(|scope| {
        let all: Vec<_> = (0..size).map(|rank| scope.spawn(move || worker(rank))).collect();
        all.into_iter().map(|worker| worker.join().expect("an exchange")).fold(0.0, f64::max)
    })
}

fn timed(tcp: &Tcp, bytes: usize) -> f64 {
    let once = |_| {
        let outgoing = vec![vec![1; bytes]; tcp.size()];
        let started = Instant::now();
        tcp.exchange(outgoing).map(drop).expect("an exchange");
        started.elapsed().as_secs_f64()
    };
    let mut seconds: Vec<f64> = (0..TIMES).map(once).collect();
    seconds.sort_by(f64::total_cmp);
    seconds[TIMES / 2]
}
