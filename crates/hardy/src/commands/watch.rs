//! `hardy watch`: a page on loopback that follows runs while they go on.

mod pages;
mod server;

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    path::PathBuf,
};

use clap::Args;
use hardy_lab::live::Live;
use serde_json::json;

use crate::{failure::Failure, output::Output};

const EXAMPLE: &str = "\
A RUN is a run directory or a folder of them, such as runs/hw-noise of a suite; runs that begin later appear by themselves. \
The page needs nothing from outside, reads what the runs write and changes nothing. In it, j and k go from section to \
section. Ctrl-C ends.

Example:
  hardy watch runs --port 7007";

/// Arguments of `hardy watch`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    /// Run directories, or folders of them; the first run is the baseline of comparisons
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// The port; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 7007)]
    port: u16,
    /// The address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// Let other machines read the page, where --host is not a loopback address: there is no password
    #[arg(long)]
    allow_remote: bool,
}

/// Serves the page until the process is ended.
///
/// # Errors
/// A path that does not exist, a public address without --allow-remote, or one that is taken.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    if !args.host.is_loopback() && !args.allow_remote {
        return Err(Failure::input(format!(
            "--host {} can be reached by other machines, and the page has no password; take 127.0.0.1 and a tunnel (ssh -L), \
             or say --allow-remote",
            args.host
        )));
    }
    let live = Live::new(&args.runs)?;
    let address = SocketAddr::new(args.host, args.port);
    let taken =
        |error| Failure::input(format!("{address}: {error}; choose another --port, or 0 for a free one"));
    let listener = TcpListener::bind(address).map_err(taken)?;
    let url = format!("http://{}/", listener.local_addr().map_err(taken)?);
    let count = live.runs().len();
    output.show(&json!({ "url": url, "runs": count }), |_| {
        format!("watching {count} runs at {url}; Ctrl-C ends\n")
    })?;
    server::serve(listener, live, !args.allow_remote).map_err(|error| Failure::run(format!("{url}: {error}")))
}
