//! A report as one page that needs nothing else: figures, and plots as inline SVG. Light or dark as the reader has it.

use std::fmt::Write as _;

use super::plots::Figure;

/// A table of the page.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// What it shows; may be empty.
    pub title: String,
    /// Names of the columns; none where the rows speak for themselves.
    pub head: Vec<String>,
    /// Cells, the first of each row its name.
    pub rows: Vec<Vec<String>>,
}

/// The page.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Its title.
    pub title: String,
    /// What was done, as sentences.
    pub lead: Vec<String>,
    /// The answer, where there is one, in a line.
    pub answer: Option<String>,
    /// Figures.
    pub tables: Vec<Table>,
    /// Plots.
    pub figures: Vec<Figure>,
    /// What stands below: where figures come from.
    pub notes: Vec<String>,
}

impl Page {
    /// As HTML.
    pub fn render(&self) -> String {
        let mut page = String::from(HEAD);
        // Writing to a String cannot fail.
        let _ = write!(page, "<title>{0}</title></head><body><main><h1>{0}</h1>", escape(&self.title));
        if let Some(answer) = &self.answer {
            let _ = write!(page, "<p class=answer>{}</p>", escape(answer));
        }
        for sentence in &self.lead {
            let _ = write!(page, "<p>{}</p>", escape(sentence));
        }
        page.push_str("<div class=row>");
        for table in self.tables.iter().filter(|table| !table.rows.is_empty()) {
            table.render(&mut page);
        }
        page.push_str("</div><div class=plots>");
        for Figure { svg, caption } in &self.figures {
            let _ = write!(page, "<figure>{svg}<figcaption>{}</figcaption></figure>", escape(caption));
        }
        page.push_str("</div>");
        for note in &self.notes {
            let _ = write!(page, "<p class=note>{}</p>", escape(note));
        }
        page.push_str("</main></body></html>\n");
        page
    }
}

impl Table {
    fn render(&self, page: &mut String) {
        page.push_str("<div class=table><table>");
        if !self.title.is_empty() {
            let _ = write!(page, "<caption>{}</caption>", escape(&self.title));
        }
        if !self.head.is_empty() {
            page.push_str("<thead><tr>");
            for name in &self.head {
                let _ = write!(page, "<th scope=col>{}</th>", escape(name));
            }
            page.push_str("</tr></thead>");
        }
        page.push_str("<tbody>");
        for row in &self.rows {
            page.push_str("<tr>");
            for (i, cell) in row.iter().enumerate() {
                let tag = if i == 0 { "th scope=row" } else { "td" };
                let _ = write!(page, "<{tag}>{}</{}>", escape(cell), &tag[..2]);
            }
            page.push_str("</tr>");
        }
        page.push_str("</tbody></table></div>");
    }
}

/// Text as it may stand in HTML, also within quotes.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const HEAD: &str = "<!doctype html><html lang=en><head><meta charset=utf-8>\
<meta name=viewport content='width=device-width,initial-scale=1'><meta name=color-scheme content='light dark'>\
<style>\
:root{--page:#f6f7f9;--card:#fff;--ink:#1b1f24;--soft:#57606a;--line:#dde1e6}\
@media(prefers-color-scheme:dark){:root{--page:#12151a;--card:#1c2128;--ink:#e6e9ed;--soft:#a3adb8;--line:#343b45}}\
body{font:15px/1.5 system-ui,sans-serif;margin:0;background:var(--page);color:var(--ink)}\
main{max-width:1600px;margin:0 auto;padding:1.5rem}h1{font-size:1.5rem;margin:0 0 .5rem}p{margin:.25rem 0;max-width:90ch}\
.answer{font-size:1.15rem;font-weight:600;margin:.75rem 0}.note{color:var(--soft);font-size:.9rem;margin-top:.75rem}\
.row{display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start;margin-top:1rem}\
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,38rem),1fr));gap:1rem;margin-top:1rem}\
.table,figure{background:var(--card);border-radius:8px;max-width:100%;overflow-x:auto}table{border-collapse:collapse}\
caption{text-align:left;font-weight:600;padding:.4rem .8rem}\
th,td{padding:.3rem .8rem;text-align:right;border-bottom:1px solid var(--line);font-variant-numeric:tabular-nums}\
th{font-weight:400;color:var(--soft)}th:first-child{text-align:left}\
figure{margin:0}\
svg{display:block;color:var(--ink);width:100%;min-width:34rem;height:auto}\
figcaption{position:sticky;left:0;padding:0 1rem .9rem;color:var(--soft);max-width:74ch}\
@media(max-width:40rem){main{padding:.75rem}th,td{padding:.3rem .5rem}}\
</style>";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_needs_nothing_else_and_cannot_be_broken_by_names() {
        let page = Page {
            title: "<script>alert(1)</script>".into(),
            lead: vec!["a & b".into()],
            answer: Some("4 callers".into()),
            tables: vec![Table {
                title: "x".into(),
                head: vec!["".into(), "p50".into()],
                rows: vec![vec!["\"<b>\"".into(), "5".into()]],
            }],
            figures: vec![Figure { svg: "<svg></svg>".into(), caption: "1 < 2".into() }],
            notes: vec!["from there".into()],
        }
        .render();
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script") && !page.contains("<b>"));
        assert!(page.contains("prefers-color-scheme:dark") && page.contains("1 &lt; 2"));
        for outside in ["http:", "https:", "//", "src=", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
