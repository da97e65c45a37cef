//! `viva talk --interview`: a whole interview from recorded answers.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use crate::client::interviews::{Invitation, fitting, invite, look};
use crate::client::{Call, CallOptions, ClientError, Clips, Script, Step};

use super::{TAIL, TalkArgs, print_remarks, save, table};

/// How long a candidate thinks before each answer: people begin half a second after a question.
const THINKS_MS: u32 = 600;

/// How the interview is asked for.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct InterviewArgs {
    /// Have an interview for this role: each file, or `play` or `say` of a script, answers one thing the interviewer
    /// says, the first "shall we begin?"
    #[arg(long, value_name = "ROLE", conflicts_with_all = ["instructions", "turn_detection"])]
    pub interview: Option<String>,
    /// Who asks: friendly, formal, technical, ward, sales, finance, school, leadership
    #[arg(long, value_name = "NAME", requires = "interview")]
    pub interviewer: Option<String>,
    /// Whom the job is for: junior, mid, senior, lead
    #[arg(long, requires = "interview")]
    pub level: Option<String>,
    /// How long the interview is to be, 4 to 60
    #[arg(long, requires = "interview")]
    pub minutes: Option<u32>,
}

impl InterviewArgs {
    fn wanted(&self) -> Value {
        let mut wanted = json!({"role": self.interview});
        for (name, value) in [("interviewer", &self.interviewer), ("level", &self.level)] {
            if let Some(value) = value {
                wanted[name] = json!(value);
            }
        }
        if let Some(minutes) = self.minutes {
            wanted["minutes"] = json!(minutes);
        }
        wanted
    }
}

/// Holds the interview at this server and prints what became of it.
pub(super) async fn hold(
    url: &str,
    clips: Clips,
    mut options: CallOptions,
    script: &Script,
    args: &TalkArgs,
) -> anyhow::Result<()> {
    let key = args.key.clone();
    let Invitation { id, secret } = invite(url, key.as_deref(), args.interview.wanted()).await?;
    options.caller.key = Some(secret);
    let mut call = Call::connect(url, clips, options).await?;
    eprintln!("interview {id} at {url} ...");
    let standing = || look(url, key.as_deref(), &id);
    let mut done = answers(&mut call, script, standing).await;
    if done.is_ok() {
        done = call.listen(TAIL).await.map_err(Into::into);
    }
    let interview = standing().await;
    let report = call.report();
    let (caller, reply) = call.tracks();
    call.hang_up().await;
    save(&args.out, &caller, &reply)?;
    let interview = interview?;
    let kept = args.out.join("interview.json");
    let text = serde_json::to_string_pretty(&interview).context("the interview cannot be written as JSON")?;
    std::fs::write(&kept, text).with_context(|| format!("cannot write {}", kept.display()))?;
    if args.json {
        println!("{interview}");
    } else {
        print(&interview);
        println!("{}", table(&report));
        print_remarks(&report);
        told(&args.out);
    }
    done
}

/// An answer after everything that is said, until there is none left or the interviewer has closed.
async fn answers<L: Future<Output = Result<Value, ClientError>>>(
    call: &mut Call,
    script: &Script,
    standing: impl Fn() -> L,
) -> anyhow::Result<()> {
    let mut left: Vec<&Step> =
        script.steps.iter().filter(|step| matches!(step, Step::Play { .. } | Step::Say { .. })).collect();
    let (mut heard, mut silent) = (0, false);
    loop {
        heard = match call.hear_out(heard).await {
            // They have said all they had to, and the interviewer waits for more.
            Err(ClientError::Late { .. }) if silent => break,
            heard => heard?,
        };
        let interview = standing().await?;
        let progress = &interview["progress"];
        let section = progress["section"].as_str().unwrap_or_default();
        let asked = progress["question"].as_str().unwrap_or_default();
        if section == "close" {
            break;
        }
        let fits = fitting(&left, section, asked);
        silent = fits.is_none();
        let Some(at) = fits else { continue };
        call.step(&Step::Pause { ms: THINKS_MS, ms_max: None }).await?;
        call.step(left.remove(at)).await?;
        call.answered();
    }
    if !left.is_empty() {
        eprintln!("{} answers were not needed", left.len());
    }
    Ok(())
}

fn told(out: &Path) {
    println!(
        "Kept: {0}/interview.json (all that was decided), {0}/reply.wav, {0}/call.wav (candidate left, Viva right)",
        out.display()
    );
}

fn clock(ms: u64) -> String {
    let time = Duration::from_millis(ms).as_secs();
    format!("{}:{:02}", time / 60, time % 60)
}

/// The plan's progress and the transcript.
fn print(interview: &Value) {
    let progress = &interview["progress"];
    let ms = |value: &Value| clock(value.as_u64().unwrap_or_default());
    println!("{} of {} left", ms(&progress["left_ms"]), clock(minutes_ms(interview)));
    for section in progress["sections"].as_array().into_iter().flatten() {
        let mark = match section["state"].as_str() {
            Some("done") => "x",
            Some("now") => ">",
            _ => " ",
        };
        println!("  [{mark}] {}", section["name"].as_str().unwrap_or_default().replace('_', " "));
    }
    println!();
    for line in interview["transcript"].as_array().into_iter().flatten() {
        let who = if line["speaker"] == "candidate" { "Candidate" } else { "Viva     " };
        println!("{:>5}  {who}  {}", ms(&line["at_ms"]), line["text"].as_str().unwrap_or_default());
    }
    println!();
}

fn minutes_ms(interview: &Value) -> u64 {
    interview["plan"]["minutes"].as_u64().unwrap_or_default() * 60_000
}
