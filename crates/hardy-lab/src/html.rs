//! The little HTML that a page without scripts needs: escaping, tables, and a page with its style inside.

use std::fmt::Write;

/// `text` with the five characters that mean something to HTML replaced.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(character),
        }
    }
    out
}

/// A table in a box that scrolls sideways where it must. Column names are text, those that begin with `#` without it
/// and with numbers flush right; cells are HTML already.
#[must_use]
pub fn table(columns: &[&str], rows: &[Vec<String>]) -> String {
    let class = |i: usize| {
        if columns.get(i).is_some_and(|name| name.starts_with('#')) { " class=\"num\"" } else { "" }
    };
    let mut out = String::from("<div class=\"scroll\"><table><thead><tr>");
    for (i, name) in columns.iter().enumerate() {
        let _ = write!(out, "<th{}>{}</th>", class(i), escape(name.trim_start_matches('#')));
    }
    out.push_str("</tr></thead><tbody>");
    for row in rows {
        out.push_str("<tr>");
        for (i, cell) in row.iter().enumerate() {
            let _ = write!(out, "<td{}>{cell}</td>", class(i));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    out
}

/// A section with its heading; empty when `body` is.
#[must_use]
pub fn section(heading: &str, body: &str) -> String {
    if body.is_empty() {
        String::new()
    } else {
        format!("<section><h2>{}</h2>{body}</section>\n", escape(heading))
    }
}

/// Something that opens on a click; `summary` is text, `body` HTML.
#[must_use]
pub fn details(summary: &str, open: bool, body: &str) -> String {
    let open = if open { " open" } else { "" };
    format!("<details{open}><summary>{}</summary>{body}</details>", escape(summary))
}

/// A whole page that needs nothing from outside; `title` is text, `body` HTML.
#[must_use]
pub fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>\n{}</style>\n</head>\n\
         <body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escape(title),
        include_str!("report/style.css"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<b a=\"1\" c='2'>&"), "&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;");
        assert!(page("</title><script>", "").contains("<title>&lt;/title&gt;&lt;script&gt;</title>"));
        assert!(table(&["#<i>"], &[]).contains("<th class=\"num\">&lt;i&gt;</th>"));
    }

    #[test]
    fn a_section_without_content_has_no_heading() {
        assert_eq!(section("Curves", ""), "");
    }
}
