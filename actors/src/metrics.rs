//! Every metric: its name, its unit, what it counts. No session names as labels.

use std::time::Duration;

/// Histogram, ms: work waited for its engine. Label `stage`.
pub const QUEUE_MS: &str = "viva_engine_queue_ms";
/// Histogram, ms: an engine worked. Label `stage`.
pub const COMPUTE_MS: &str = "viva_engine_compute_ms";
/// Histogram: how much work ran in one call. Label `stage`.
pub const BATCH_SIZE: &str = "viva_engine_batch_size";
/// Counter: an engine was started again. Label `stage`.
pub const ENGINE_RESTARTS: &str = "viva_engine_restarts_total";
/// Counter: a stage was started again. Label `stage`.
pub const STAGE_RESTARTS: &str = "viva_stage_restarts_total";
/// Histogram, ms: end of speech → turn decision.
pub const ENDPOINT_MS: &str = "viva_turn_endpoint_ms";
/// Histogram, ms: end of speech → the turn's words.
pub const ASR_FINAL_MS: &str = "viva_turn_asr_final_ms";
/// Histogram, ms: draft asked for → first token.
pub const TTFT_MS: &str = "viva_llm_ttft_ms";
/// Histogram, ms: end of speech → first audio made.
pub const FIRST_AUDIO_MS: &str = "viva_turn_first_audio_ms";
/// Histogram, ms: end of speech → first audio sent.
pub const VOICE_TO_VOICE_MS: &str = "viva_turn_voice_to_voice_ms";
/// Counter: something was dropped. Labels `stage`, `reason`.
pub const DROPS: &str = "viva_drops_total";
/// Gauge: sessions running.
pub const SESSIONS: &str = "viva_sessions";
/// Counter: sessions opened.
pub const SESSIONS_OPENED: &str = "viva_sessions_opened_total";
/// Counter: sessions refused. Label `reason`.
pub const SESSIONS_REFUSED: &str = "viva_sessions_refused_total";
/// Counter: sessions handed on because there was no room for them on the usual engines. Label `to`: `smaller`,
/// `elsewhere`.
pub const SESSIONS_HANDED: &str = "viva_sessions_handed_total";
/// Gauge: callers who wait for a seat.
pub const SESSIONS_WAITING: &str = "viva_sessions_waiting";
/// Counter: turns answered.
pub const TURNS: &str = "viva_turns_total";
/// Counter: replies cut. Label `reason`.
pub const CUTS: &str = "viva_reply_cuts_total";
/// Counter: drafts thrown away.
pub const DRAFTS_DISCARDED: &str = "viva_drafts_discarded_total";
/// Counter: our voice was held and went on.
pub const FALSE_BARGE_INS: &str = "viva_false_barge_ins_total";
/// Counter: 20 ms frames that were not there when they were due, in mid-reply.
pub const PLAYOUT_GAPS: &str = "viva_playout_gap_frames_total";
/// Histogram, ms: how late the pacer's tick ran.
pub const PACER_LATE_MS: &str = "viva_pacer_late_ms";
/// Counter: what became of callers' audio packets. Label `what`: `lost`, `late`, `made_up`.
pub const RTP_PACKETS: &str = "viva_rtp_packets_total";
/// Counter: lines of callers that were lost for a while. Label `end`: `back`, `resumed`, `given_up`.
pub const LINES_LOST: &str = "viva_lines_lost_total";
/// Histogram: language model, sequences in one step.
pub const LLM_STEP_SEQUENCES: &str = "viva_llm_step_sequences";
/// Gauge: share of the device's cores that work takes. Label `kind`: `certain`, `ahead`.
pub const DEVICE_LOAD: &str = "viva_device_load_ratio";
/// Gauge, ms: how late certain work was done of late, 95th percentile.
pub const DEVICE_LATE_MS: &str = "viva_device_late_ms";
/// Counter: clauses to speak. Label `what`: `known` (spoken before, taken from the store), `made`.
pub const SPOKEN_LINES: &str = "viva_spoken_lines_total";
/// Counter: work that went to an engine of the second line. Label `stage`.
pub const SPILLED: &str = "viva_engine_spilled_total";
/// Counter: tokens. Label `kind`: `prompt`, `reused`, `generated`.
pub const LLM_TOKENS: &str = "viva_llm_tokens_total";
/// Counter: recordings deleted because their time was over.
pub const RECORDINGS_DELETED: &str = "viva_recordings_deleted_total";
/// Counter: tries to delete what may be over that failed.
pub const RECORDING_DELETIONS_FAILED: &str = "viva_recording_deletions_failed_total";

/// All names with their help text, for the exporter and for documentation.
pub const ALL: &[(&str, &str)] = &[
    (QUEUE_MS, "Milliseconds work waited for its engine"),
    (COMPUTE_MS, "Milliseconds an engine worked on one call"),
    (BATCH_SIZE, "Pieces of work in one engine call"),
    (ENGINE_RESTARTS, "Engines started again after they died"),
    (STAGE_RESTARTS, "Stages of a session started again after they died"),
    (ENDPOINT_MS, "Milliseconds from end of speech to the turn decision"),
    (ASR_FINAL_MS, "Milliseconds from end of speech to the turn's words"),
    (TTFT_MS, "Milliseconds from asking for a reply to its first token"),
    (FIRST_AUDIO_MS, "Milliseconds from end of speech to the first audio made"),
    (VOICE_TO_VOICE_MS, "Milliseconds from end of speech to the first audio sent"),
    (DROPS, "Items dropped, by stage and reason"),
    (SESSIONS, "Sessions running"),
    (SESSIONS_OPENED, "Sessions opened"),
    (SESSIONS_REFUSED, "Sessions refused, by reason"),
    (SESSIONS_HANDED, "Sessions handed to smaller engines or elsewhere for want of room"),
    (SESSIONS_WAITING, "Callers who wait for a seat"),
    (TURNS, "Turns answered"),
    (CUTS, "Replies cut, by reason"),
    (DRAFTS_DISCARDED, "Drafts thrown away"),
    (FALSE_BARGE_INS, "Times our voice was held and went on"),
    (PLAYOUT_GAPS, "20 ms frames missing in mid-reply"),
    (PACER_LATE_MS, "Milliseconds the pacer's tick was late"),
    (RTP_PACKETS, "Callers' audio packets that were lost, late or made up"),
    (LINES_LOST, "Lines of callers that were lost for a while, by how it ended"),
    (LLM_STEP_SEQUENCES, "Sequences moved in one step of the language model"),
    (DEVICE_LOAD, "Share of the device's cores that work takes, by whether somebody waits for it"),
    (DEVICE_LATE_MS, "Milliseconds certain work was late of late, 95th percentile"),
    (SPOKEN_LINES, "Clauses to speak, by whether they were known from before"),
    (SPILLED, "Pieces of work that went to an engine of the second line, by stage"),
    (LLM_TOKENS, "Tokens, by kind"),
    (RECORDINGS_DELETED, "Recordings deleted because their time was over, or with their interview"),
    (RECORDING_DELETIONS_FAILED, "Recordings that could not be deleted; the log says why"),
];

/// A duration as the unit of our histograms.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
