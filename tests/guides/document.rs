//! A guide as its test reads it: fenced blocks and tables, in order, each with the headings above it.

/// What a guide consists of, for its test.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// A fenced block: its language and its text.
    Block { language: String, text: String },
    /// The cells of a table, the header row first.
    Table(Vec<Vec<String>>),
}

/// A block or a table.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// The headings above it, outermost first, with their levels.
    headings: Vec<(usize, String)>,
    /// The line where it begins.
    pub(super) line: usize,
    /// What it is.
    pub(super) content: Content,
}

impl Part {
    /// Whether it stands under this heading.
    pub(super) fn is_under(&self, heading: &str) -> bool {
        self.headings.iter().any(|(_, text)| text == heading)
    }

    /// Whether it stands under a heading that begins so.
    pub(super) fn is_in(&self, way: &str) -> bool {
        self.headings.iter().any(|(_, text)| text.starts_with(way))
    }
}

/// The blocks and tables of a Markdown document.
pub(super) fn read(text: &str) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut headings: Vec<(usize, String)> = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        let content = if let Some(language) = line.trim_start().strip_prefix("```") {
            let indent = line.len() - line.trim_start().len();
            let block = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
            let text = block.map(|line| line.get(indent..).unwrap_or_default()).collect::<Vec<_>>().join("\n");
            Content::Block { language: language.to_owned(), text }
        } else if line.starts_with('|') {
            let mut rows = vec![cells(line)];
            while let Some((_, line)) = lines.next_if(|(_, line)| line.starts_with('|')) {
                rows.push(cells(line));
            }
            rows.retain(|row| !row.iter().all(|cell| !cell.is_empty() && cell.chars().all(|c| matches!(c, '-' | ':'))));
            Content::Table(rows)
        } else {
            let level = line.chars().take_while(|c| *c == '#').count();
            if let Some(heading) = line[level..].strip_prefix(' ').filter(|_| level > 0) {
                headings.retain(|(above, _)| *above < level);
                headings.push((level, heading.to_owned()));
            }
            continue;
        };
        parts.push(Part { headings: headings.clone(), line: index + 1, content });
    }
    parts
}

/// The cells of a table's row; `\|` is a bar inside one.
fn cells(line: &str) -> Vec<String> {
    let line = line.trim().trim_start_matches('|').trim_end_matches('|').replace("\\|", "\u{0}");
    line.split('|').map(|cell| cell.trim().replace('\u{0}', "|")).collect()
}

/// What stands between backticks, and the rest.
pub(super) fn spans(cell: &str) -> (Vec<String>, String) {
    let (mut spans, mut rest) = (Vec::new(), String::new());
    let mut left = cell;
    while let Some(start) = left.find('`') {
        rest.push_str(&left[..start]);
        let fence: String = left[start..].chars().take_while(|c| *c == '`').collect();
        let inside = &left[start + fence.len()..];
        let end = inside.find(&fence).unwrap_or_else(|| panic!("a backtick is not closed: {cell}"));
        spans.push(inside[..end].trim().to_owned());
        left = &inside[end + fence.len()..];
    }
    rest.push_str(left);
    (spans, rest.trim().to_owned())
}
