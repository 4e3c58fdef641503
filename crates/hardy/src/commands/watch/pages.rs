//! The page's frame and its script; what it shows comes from `hardy-lab`.

use hardy_lab::html;

/// Fetches what is new when the server says that something is, and keeps what a reader has opened.
pub const SCRIPT: &str = include_str!("watch.js");

/// The page before it shows anything.
pub fn frame() -> String {
    let body = "<header><p class=\"brand\">Hardy watch</p><p id=\"state\" class=\"quiet\" role=\"status\">connecting …</p></header>\n\
                <div id=\"now\"></div>\n<noscript><p class=\"note\">This page follows its runs by a script; \
                <code>hardy report</code> writes one without.</p></noscript>\n<script src=\"watch.js\"></script>\n";
    html::page("Hardy watch", body)
}
