//! The table of clients in README.md is what the tests have proved. It runs after all others (scripts/test.sh).
//! `VIVA_BLESS=1` at all of them writes it anew.

#![allow(clippy::unwrap_used)]

#[path = "support/matrix.rs"]
mod matrix;

use std::fs;

use matrix::{TABLES, blessing, readme};

#[test]
#[ignore = "it judges what the other tests have proved; scripts/test.sh runs it after them"]
fn every_cell_of_the_readme_was_proved() {
    let mut text = fs::read_to_string(readme()).unwrap();
    for table in &TABLES {
        let written = table.written(&text).to_owned();
        let proved = table.proved(&written);
        if written == proved {
            continue;
        }
        assert!(blessing(), "README.md's table '{}' is not what was proved, which is\n{proved}", table.name);
        let (from, to) = table.marks();
        text = text.replace(&format!("{from}{written}{to}"), &format!("{from}{proved}{to}"));
        fs::write(readme(), &text).unwrap();
    }
}
