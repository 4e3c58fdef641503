//! The server behind the page: the frame, what it shows now, and an event whenever that has changed. It knows four paths
//! and no file names, so that nothing but the page can be asked of it.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{Next, from_fn},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::get,
};
use futures_util::{Stream, stream};
use hardy_lab::live::Live;
use tokio::sync::watch::{self, Receiver, Sender};

use super::pages;

/// Between two looks at the directories.
const LOOK: Duration = Duration::from_secs(1);
/// After so long a page is made anew though nothing was written: a silent run is news too.
const ANEW: Duration = Duration::from_secs(60);
/// Nothing from anywhere else, and no frame around it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// What requests are answered from.
#[derive(Clone)]
struct Shared {
    live: Arc<Mutex<Live>>,
    /// The page as it was last made, with its version.
    made: Arc<Mutex<(u64, Arc<str>)>>,
    version: Receiver<u64>,
}

/// Serves `live` on `listener` until the process ends; `local` refuses requests under any but a loopback name, which a
/// foreign page could have resolved to this machine.
pub fn serve(listener: TcpListener, live: Live, local: bool) -> io::Result<()> {
    let (told, version) = watch::channel(1);
    let made = Arc::new(Mutex::new((0, "".into())));
    let shared = Shared { live: Arc::new(Mutex::new(live)), made, version };
    let followed = shared.live.clone();
    thread::spawn(move || follow(&followed, &told));
    let app = Router::new()
        .route("/", get(|| async { html(pages::frame()) }))
        .route("/watch.js", get(|| async { ([(header::CONTENT_TYPE, "text/javascript")], pages::SCRIPT) }))
        .route("/now", get(now))
        .route("/events", get(events))
        .layer(from_fn(move |request, next| guard(local, request, next)))
        .with_state(shared);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        listener.set_nonblocking(true)?;
        axum::serve(tokio::net::TcpListener::from_std(listener)?, app).await
    })
}

/// Looks at the directories for as long as anybody listens.
fn follow(live: &Mutex<Live>, told: &Sender<u64>) {
    let mut last = Instant::now();
    while !told.is_closed() {
        thread::sleep(LOOK);
        let changed = live.lock().unwrap_or_else(PoisonError::into_inner).refresh();
        if changed || last.elapsed() > ANEW {
            last = Instant::now();
            told.send_modify(|version| *version += 1);
        }
    }
}

/// What the page shows now.
async fn now(State(shared): State<Shared>) -> Response {
    match tokio::task::spawn_blocking(move || shared.page()).await {
        Ok(page) => html(page.to_string()),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

impl Shared {
    /// The page, made anew where something has changed since.
    fn page(&self) -> Arc<str> {
        let wanted = *self.version.borrow();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.0 != wanted {
            *made = (wanted, self.live.lock().unwrap_or_else(PoisonError::into_inner).page().into());
        }
        made.1.clone()
    }
}

/// The version of the page, now and whenever it changes.
async fn events(State(shared): State<Shared>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut version = shared.version;
    version.mark_changed();
    let stream = stream::unfold(version, |mut version| async move {
        version.changed().await.ok()?;
        let number = *version.borrow_and_update();
        Some((Ok(Event::default().data(number.to_string())), version))
    });
    Sse::new(stream).keep_alive(KeepAlive::default())
}

fn html(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], text).into_response()
}

/// Refuses foreign names and adds what browsers are to keep to.
async fn guard(local: bool, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if local && !is_loopback(host) {
        return (StatusCode::FORBIDDEN, "this page answers to localhost only\n").into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whether a `Host` header, with or without a port, names this machine for itself.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_this_machine() {
        for own in ["localhost", "LOCALHOST:7007", "127.0.0.1:7007", "127.8.8.8", "[::1]:7007"] {
            assert!(is_loopback(own), "{own}");
        }
        for foreign in [
            "",
            "example.com",
            "localhost.example.com:7007",
            "10.0.0.1",
            "[2001:db8::1]:7007",
            "127.0.0.1.example",
        ] {
            assert!(!is_loopback(foreign), "{foreign}");
        }
    }
}
