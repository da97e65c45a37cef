//! What a reader wants of the rows.

use std::fmt::Write;

use crate::Row;

/// A table of all conditions, without and with RNNoise, in Markdown.
pub fn table(rows: &[Row]) -> String {
    let mut out = String::from(
        "Each pair: without RNNoise → with it. WER: words wrong. Missed: speech the VAD did not hear. False: quiet or \
         noise it took\nfor speech. No pause: clips after which no pause of 160 ms was found within a second.\n\n\
         | noise | SNR dB | WER % | missed % | false % | no pause % |\n|---|---|---|---|---|---|\n",
    );
    let mut conditions: Vec<(&str, Option<i32>)> = Vec::new();
    for row in rows {
        if !conditions.contains(&(row.noise, row.snr_db)) {
            conditions.push((row.noise, row.snr_db));
        }
    }
    for (noise, snr) in &conditions {
        let snr_db = snr.map_or("–".into(), |s| s.to_string());
        line(&mut out, rows, noise, &snr_db, |r| r.noise == *noise && r.snr_db == *snr);
    }
    for snr in [0, 5, 10] {
        line(&mut out, rows, "**all**", &snr.to_string(), |r| r.snr_db == Some(snr));
    }
    line(&mut out, rows, "**all**", "all", |r| r.snr_db.is_some());
    line(&mut out, rows, "**all but babble**", "all", |r| r.snr_db.is_some() && r.noise != "babble");
    line(&mut out, rows, "clean, people only", "–", |r| r.human && r.snr_db.is_none());
    line(&mut out, rows, "all, people only", "all", |r| r.human && r.snr_db.is_some());
    out
}

fn line(out: &mut String, rows: &[Row], noise: &str, snr: &str, of: impl Fn(&Row) -> bool) {
    let pair = |wrong: &dyn Fn(&Row) -> usize, among: &dyn Fn(&Row) -> usize| {
        let percent = |denoise: bool| {
            let rows = rows.iter().filter(|r| of(r) && r.denoise == denoise);
            let (wrong, among) = rows.fold((0, 0), |(w, a), r| (w + wrong(r), a + among(r)));
            100.0 * wrong as f64 / among.max(1) as f64
        };
        format!("{:.1} → {:.1}", percent(false), percent(true))
    };
    let wer = pair(&|r| r.word_errors, &|r| r.words);
    let missed = pair(&|r| r.missed, &|r| r.speech_windows);
    let false_speech = pair(&|r| r.false_speech, &|r| r.quiet_windows);
    let no_pause = pair(&|r| usize::from(r.pause_ms.is_none()), &|_| 1);
    // Writing to a string cannot fail.
    writeln!(out, "| {noise} | {snr} | {wer} | {missed} | {false_speech} | {no_pause} |").ok();
}
