//! `viva talk`: a call from recordings, for anyone who wants to see it work without a microphone.

mod interview;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde_json::{Value, json};

use crate::client::recording::{write_mono, write_stereo};
use crate::client::server::interrupted;
use crate::client::{
    Call, CallOptions, CallReport, CallerOptions, Clips, Script, ServerOptions, ServerProcess, TurnReport,
    Via, Wishes,
};
use crate::edge::webrtc::impair::Impairment;
use crate::lab::voice::Voice;

/// Quiet kept at the end of a recording, so that it does not end on a consonant.
const TAIL: Duration = Duration::from_millis(300);

/// Plays recordings as a caller, in real time, and measures the answers.
#[derive(Debug, clap::Args)]
pub struct TalkArgs {
    /// Recordings (WAV, MP3, FLAC, OGG, M4A, WebM); each is one answer of the caller
    #[arg(required_unless_present = "script", conflicts_with = "script")]
    pub files: Vec<PathBuf>,
    /// A script of steps (TOML or JSON) in place of files: play, say, pause, wait, barge_in, cough
    #[arg(long)]
    pub script: Option<PathBuf>,
    /// A running server, as http://HOST:PORT; without it one is started for the call
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// Key for a server that wants one
    #[arg(long, env = "VIVA_API_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// How to call
    #[command(flatten)]
    pub network: NetworkArgs,
    /// Weights of the server that is started
    #[arg(long, default_value = "default", conflicts_with = "server")]
    pub profile: String,
    /// Engines of the server that is started; `fake` needs no weights
    #[arg(long, hide = true, conflicts_with = "server")]
    pub engines: Option<String>,
    /// Instructions for Viva, in place of the server's own
    #[arg(long)]
    pub instructions: Option<String>,
    /// What kind of interview, if it is one
    #[command(flatten)]
    pub interview: interview::InterviewArgs,
    /// Viva's voice
    #[arg(long)]
    pub voice: Option<String>,
    /// server_vad, semantic_vad, semantic_vad:low|medium|high, none (commit after each file), or a JSON object
    #[arg(long, value_name = "HOW")]
    pub turn_detection: Option<String>,
    /// Seconds until an answer must begin
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub timeout: u64,
    /// Folder for reply.wav (Viva alone) and call.wav (caller left, Viva right)
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,
    /// Print one JSON object a turn instead of the transcript and the table
    #[arg(long)]
    pub json: bool,
    /// Pass on the log of the server that is started
    #[arg(long, conflicts_with = "server")]
    pub server_log: bool,
}

/// How a single caller reaches the server.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct NetworkArgs {
    /// Call over WebRTC instead of a WebSocket
    #[arg(long)]
    pub webrtc: bool,
    /// Make the network bad, with --webrtc: loss=SHARE,jitter=MS,delay=MS, such as loss=0.05,jitter=60
    #[arg(long, value_name = "FAULTS", requires = "webrtc")]
    pub impair: Option<Impairment>,
}

impl NetworkArgs {
    fn via(&self) -> Via {
        if self.webrtc { Via::WebRtc(self.impair) } else { Via::WebSocket }
    }
}

/// Holds the call. Fails when an answer never came.
pub async fn run(args: TalkArgs) -> anyhow::Result<()> {
    let script = match &args.script {
        Some(path) => Script::load(path)?,
        None => Script::of_files(&args.files),
    };
    script.check().map_err(anyhow::Error::msg)?;
    let clips = spoken(&script, Clips::load([&script])?, &args.profile).await?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let turn_detection = args.turn_detection.as_deref().map(turn_detection).transpose()?;
    let options = CallOptions {
        manual_turns: turn_detection == Some(Value::Null),
        caller: CallerOptions {
            wishes: Wishes {
                instructions: args.instructions.clone().or_else(|| script.instructions.clone()),
                voice: args.voice.clone(),
                turn_detection,
            },
            key: args.key.clone(),
            via: args.network.via(),
        },
        answer_timeout: Duration::from_secs(args.timeout),
        keep_audio: true,
        ..CallOptions::default()
    };
    let own = match &args.server {
        Some(_) => None,
        None => Some(start_server(&args).await?),
    };
    let url = match (&own, &args.server) {
        (Some(own), _) => own.url.clone(),
        (None, Some(server)) => server.clone(),
        (None, None) => unreachable!("a server is named or started"),
    };
    let held = async {
        match args.interview.interview {
            Some(_) => interview::hold(&url, clips, options, &script, &args).await,
            None => hold(&url, clips, options, &script, &args).await,
        }
    };
    let held = tokio::select! {
        held = held => held,
        () = interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    if let Some(own) = own {
        own.stop().await;
    }
    held
}

/// The clips with the lines that the script says in words, spoken by the profile's voice.
async fn spoken(script: &Script, mut clips: Clips, profile: &str) -> anyhow::Result<Clips> {
    let texts: Vec<String> = script.texts().map(str::to_owned).collect();
    if texts.is_empty() {
        return Ok(clips);
    }
    let profile = profile.to_owned();
    let speaking = tokio::task::spawn_blocking(move || -> anyhow::Result<Clips> {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        Voice::piper(&viva_models::fetch::models_dir(), &profile)?.say(&texts, &mut clips, &mut |_| {})?;
        Ok(clips)
    });
    speaking.await.context("the candidate's voice ended")?
}

async fn start_server(args: &TalkArgs) -> anyhow::Result<ServerProcess> {
    eprintln!("starting a server (profile {}) ...", args.profile);
    let options = ServerOptions {
        profile: Some(args.profile.clone()),
        engines: args.engines.clone(),
        log: args.server_log,
        ..ServerOptions::default()
    };
    Ok(ServerProcess::start(&options).await?)
}

async fn hold(
    url: &str,
    clips: Clips,
    options: CallOptions,
    script: &Script,
    args: &TalkArgs,
) -> anyhow::Result<()> {
    let mut call = Call::connect(url, clips, options).await?;
    eprintln!("calling {url} ...");
    let mut done = call.run(script, false).await;
    if done.is_ok() {
        done = call.listen(TAIL).await;
    }
    let report = call.report();
    let (caller, reply) = call.tracks();
    call.hang_up().await;
    save(&args.out, &caller, &reply)?;
    if args.json {
        for turn in &report.turns {
            println!("{}", json_line(turn)?);
        }
    } else {
        print_transcript(&report);
        println!("{}", table(&report));
        print_remarks(&report);
        println!("Recordings: {0}/reply.wav, {0}/call.wav (caller left, Viva right)", args.out.display());
    }
    done?;
    let unanswered = report.turns.iter().filter(|turn| turn.waited && !turn.answered);
    let unanswered: Vec<&str> = unanswered.map(|turn| turn.file.as_str()).collect();
    ensure!(unanswered.is_empty(), "no answer to {}; the server's log says why", unanswered.join(", "));
    Ok(())
}

fn save(folder: &Path, caller: &[i16], reply: &[i16]) -> anyhow::Result<()> {
    let (alone, both) = (folder.join("reply.wav"), folder.join("call.wav"));
    write_mono(&alone, reply).with_context(|| format!("cannot write {}", alone.display()))?;
    write_stereo(&both, caller, reply).with_context(|| format!("cannot write {}", both.display()))
}

/// The protocol's object for what was written on the command line; null for `none`.
fn turn_detection(text: &str) -> anyhow::Result<Value> {
    let (kind, eagerness) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
    match (kind, eagerness) {
        ("none", None) => Ok(Value::Null),
        ("server_vad" | "semantic_vad", None) => Ok(json!({"type": kind})),
        ("semantic_vad", Some(eagerness @ ("low" | "medium" | "high" | "auto"))) => {
            Ok(json!({"type": kind, "eagerness": eagerness}))
        }
        _ if text.trim_start().starts_with('{') => {
            serde_json::from_str(text).context("--turn-detection: not a JSON object")
        }
        _ => bail!(
            "--turn-detection {text}: use server_vad, semantic_vad, semantic_vad:low|medium|high, none or JSON"
        ),
    }
}

/// Milliseconds as they are printed: whole.
fn whole(ms: Option<f64>) -> Option<f64> {
    ms.map(f64::round)
}

/// The stages of a turn in their order: heading and value.
fn stages(turn: &TurnReport) -> [(&'static str, Option<f64>); 6] {
    let server = turn.server.clone().unwrap_or_default();
    [
        ("turn decided", server.endpoint_ms),
        ("ASR final", server.asr_final_ms),
        ("first token", server.llm_first_token_ms),
        ("first sentence", server.first_sentence_ms),
        ("first audio", server.first_audio_ms),
        ("voice to voice", turn.voice_to_voice_ms),
    ]
}

/// One turn as `--json` prints it, in this order of keys.
#[derive(serde::Serialize)]
struct JsonLine<'a> {
    file: &'a str,
    heard: &'a str,
    said: &'a str,
    endpoint_ms: Option<f64>,
    asr_final_ms: Option<f64>,
    llm_first_token_ms: Option<f64>,
    first_sentence_ms: Option<f64>,
    first_audio_ms: Option<f64>,
    voice_to_voice_ms: Option<f64>,
}

fn json_line(turn: &TurnReport) -> anyhow::Result<String> {
    let [endpoint, asr_final, first_token, first_sentence, first_audio, voice_to_voice] =
        stages(turn).map(|(_, ms)| whole(ms));
    let line = JsonLine {
        file: &turn.file,
        heard: &turn.heard,
        said: &turn.said,
        endpoint_ms: endpoint,
        asr_final_ms: asr_final,
        llm_first_token_ms: first_token,
        first_sentence_ms: first_sentence,
        first_audio_ms: first_audio,
        voice_to_voice_ms: voice_to_voice,
    };
    serde_json::to_string(&line).context("a turn cannot be written as JSON")
}

fn print_transcript(report: &CallReport) {
    for turn in &report.turns {
        println!("Caller: {}", if turn.heard.is_empty() { "(nothing understood)" } else { &turn.heard });
        println!("Viva:   {}\n", if turn.said.is_empty() { "(no answer)" } else { &turn.said });
    }
}

fn table(report: &CallReport) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    let headings = report.turns.first().map(|turn| stages(turn).map(|(heading, _)| heading));
    let mut header = vec!["ms after the caller's last word".to_owned()];
    header.extend(headings.into_iter().flatten().map(str::to_owned));
    table.set_header(header);
    for turn in &report.turns {
        let name = turn.file.rsplit('/').next().unwrap_or(&turn.file);
        let mut row = vec![Cell::new(name)];
        row.extend(stages(turn).map(|(_, ms)| {
            let text = whole(ms).map_or_else(|| "–".to_owned(), |ms| format!("{ms}"));
            Cell::new(text).set_alignment(CellAlignment::Right)
        }));
        table.add_row(row);
    }
    table
}

/// What a table of latencies does not show.
fn print_remarks(report: &CallReport) {
    for turn in &report.turns {
        if let Some(cut_off) = &turn.cut_off {
            let what = if cut_off.spoke { "spoke" } else { "decided to answer" };
            println!("Cut off: Viva {what} {:.0} ms before the end of {}.", cut_off.early_ms, turn.file);
        }
        match (turn.barge_in, turn.barge_in_silent_ms) {
            (true, Some(ms)) => println!("Interruption {}: Viva was silent after {ms:.0} ms.", turn.file),
            (true, None) => println!("Interruption {}: Viva talked on to the end.", turn.file),
            (false, _) => {}
        }
    }
    if report.coughs > 0 {
        println!(
            "Noises: {}, of which {} were taken for an interruption.",
            report.coughs, report.false_barge_ins
        );
    }
    if !report.glitches.is_empty() {
        let longest = report.glitches.iter().map(|gap| gap.ms).fold(0.0, f64::max);
        println!("Gaps in the reply: {}, the longest {longest:.0} ms.", report.glitches.len());
    }
    // One frame in a hundred is what a quiet machine loses to its own business.
    if report.sent.late * 100 > report.sent.frames {
        println!(
            "This machine was busy: {} of {} frames left late (up to {:.0} ms); the figures are too high.",
            report.sent.late, report.sent.frames, report.sent.late_ms_max
        );
    }
    for error in &report.error_messages {
        println!("The server complained: {error}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_json_line_has_exactly_the_promised_keys() {
        let turn =
            TurnReport { file: "a.wav".into(), voice_to_voice_ms: Some(812.4), ..TurnReport::default() };
        assert_eq!(
            json_line(&turn).unwrap(),
            r#"{"file":"a.wav","heard":"","said":"","endpoint_ms":null,"asr_final_ms":null,"llm_first_token_ms":null,"first_sentence_ms":null,"first_audio_ms":null,"voice_to_voice_ms":812.0}"#
        );
    }

    #[test]
    fn turn_detection_is_the_protocols_object() {
        assert_eq!(turn_detection("none").unwrap(), Value::Null);
        assert_eq!(turn_detection("semantic_vad:low").unwrap()["eagerness"], "low");
        assert_eq!(turn_detection(r#"{"type":"server_vad","threshold":0.6}"#).unwrap()["threshold"], 0.6);
        assert!(turn_detection("loud").unwrap_err().to_string().contains("use server_vad"));
    }
}
