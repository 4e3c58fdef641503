//! Pictures of characters as a terminal understands them (ECMA-48): where, in which colour, what.

use std::io::{self, Write};

use ratatui_core::{
    backend::{Backend, ClearType, WindowSize},
    buffer::Cell,
    layout::{Position, Size},
    style::{Color, Modifier},
};

/// A terminal that takes bytes.
pub struct Ansi<W: Write> {
    out: W,
    size: fn() -> Size,
    /// Whether letters are in colours; not where `NO_COLOR` is set (no-color.org).
    colours: bool,
}

impl<W: Write> Ansi<W> {
    /// The terminal behind `out`; `size` tells its columns and rows at any time.
    pub fn new(out: W, size: fn() -> Size) -> Self {
        let colours = std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
        Self { out, size, colours }
    }

    /// Sets colour and weight of what follows.
    fn style(&mut self, cell: &Cell) -> io::Result<()> {
        self.out.write_all(b"\x1b[0")?;
        let weights = [(Modifier::BOLD, 1), (Modifier::DIM, 2)];
        for (_, code) in weights.iter().filter(|(weight, _)| cell.modifier.contains(*weight)) {
            write!(self.out, ";{code}")?;
        }
        if let Some(code) = colour(cell.fg).filter(|_| self.colours) {
            write!(self.out, ";{code}")?;
        }
        self.out.write_all(b"m")
    }
}

/// The code of a colour of letters; only the eight that every terminal has are used.
fn colour(colour: Color) -> Option<u8> {
    let codes = [
        (Color::Red, 31),
        (Color::Green, 32),
        (Color::Yellow, 33),
        (Color::Blue, 34),
        (Color::Magenta, 35),
        (Color::Cyan, 36),
    ];
    codes.iter().find(|(known, _)| *known == colour).map(|(_, code)| *code)
}

impl<W: Write> Backend for Ansi<W> {
    type Error = io::Error;

    fn draw<'a, I: Iterator<Item = (u16, u16, &'a Cell)>>(&mut self, content: I) -> io::Result<()> {
        let mut after: Option<(u16, u16)> = None;
        let mut style = None;
        for (x, y, cell) in content {
            if after != Some((x, y)) {
                self.set_cursor_position((x, y))?;
            }
            let own = (cell.fg, cell.modifier);
            if style != Some(own) {
                self.style(cell)?;
            }
            self.out.write_all(cell.symbol().as_bytes())?;
            (after, style) = (Some((x + 1, y)), Some(own));
        }
        self.out.write_all(b"\x1b[0m")
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        self.out.write_all(b"\x1b[?25l")
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        self.out.write_all(b"\x1b[?25h")
    }

    /// Always the first cell: nothing here is drawn from where the cursor is.
    fn get_cursor_position(&mut self) -> io::Result<Position> {
        Ok(Position::ORIGIN)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        let Position { x, y } = position.into();
        write!(self.out, "\x1b[{};{}H", u32::from(y) + 1, u32::from(x) + 1)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.clear_region(ClearType::All)
    }

    fn clear_region(&mut self, what: ClearType) -> io::Result<()> {
        self.out.write_all(match what {
            ClearType::All => b"\x1b[2J",
            ClearType::AfterCursor => b"\x1b[0J",
            ClearType::BeforeCursor => b"\x1b[1J",
            ClearType::CurrentLine => b"\x1b[2K",
            ClearType::UntilNewLine => b"\x1b[0K",
        })
    }

    fn size(&self) -> io::Result<Size> {
        Ok((self.size)())
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize { columns_rows: (self.size)(), pixels: Size::ZERO })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use ratatui_core::style::Style;

    use super::*;

    #[test]
    fn letters_that_follow_each_other_are_written_together_under_their_style() {
        let mut bold = Cell::new("b");
        bold.set_style(Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD));
        let plain = Cell::new("a");
        let mut terminal = Ansi { out: Vec::new(), size: || Size::new(9, 9), colours: true };
        terminal.draw([(0, 1, &plain), (1, 1, &plain), (2, 1, &bold), (7, 0, &bold)].into_iter()).unwrap();
        let said = String::from_utf8(terminal.out).unwrap();
        assert_eq!(said, "\x1b[2;1H\x1b[0maa\x1b[0;1;36mb\x1b[1;8Hb\x1b[0m");
    }
}
