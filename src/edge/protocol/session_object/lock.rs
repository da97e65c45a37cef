//! Settings that the holder of a client secret can neither change nor read: whoever minted it has chosen them.
//!
//! What a client sends of them is left out, and what it is shown tells the outcome. An error would do harm: stock
//! clients send all their settings at once as soon as they are connected.

use super::{AudioPatch, InputPatch, OutputPatch, SessionObject, SessionPatch};

impl SessionPatch {
    /// What of it the client may change.
    pub fn without(mut self, locked: Option<&Self>) -> Self {
        let Some(locked) = locked else { return self };
        keep_free(&mut self.instructions, &locked.instructions);
        keep_free(&mut self.output_modalities, &locked.output_modalities);
        keep_free(&mut self.max_output_tokens, &locked.max_output_tokens);
        keep_free(&mut self.tools, &locked.tools);
        keep_free(&mut self.tool_choice, &locked.tool_choice);
        if let (Some(AudioPatch { input, output }), Some(locked)) = (&mut self.audio, &locked.audio) {
            if let (Some(input), Some(locked)) = (input, &locked.input) {
                input.keep_free(locked);
            }
            if let (Some(output), Some(locked)) = (output, &locked.output) {
                output.keep_free(locked);
            }
        }
        self
    }
}

/// Drops a change of what is locked.
fn keep_free<T>(change: &mut Option<T>, locked: &Option<T>) {
    if locked.is_some() {
        *change = None;
    }
}

impl InputPatch {
    fn keep_free(&mut self, locked: &Self) {
        keep_free(&mut self.format, &locked.format);
        keep_free(&mut self.transcription, &locked.transcription);
        keep_free(&mut self.noise_reduction, &locked.noise_reduction);
        keep_free(&mut self.turn_detection, &locked.turn_detection);
    }
}

impl OutputPatch {
    fn keep_free(&mut self, locked: &Self) {
        keep_free(&mut self.format, &locked.format);
        keep_free(&mut self.voice, &locked.voice);
        keep_free(&mut self.speed, &locked.speed);
    }
}

impl SessionObject {
    /// As its client may see it: locked instructions and tools are the business of whoever chose them.
    pub fn without_secrets(mut self, locked: &SessionPatch) -> Self {
        if locked.instructions.is_some() {
            self.instructions.clear();
        }
        if locked.tools.is_some() {
            self.tools.clear();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn patch(value: serde_json::Value) -> SessionPatch {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_is_locked_is_left_out_and_the_rest_stays() {
        let locked = patch(json!({"type": "realtime", "instructions": "Be formal.",
            "audio": {"input": {"turn_detection": {"type": "semantic_vad"}}, "output": {"voice": "joe"}}}));
        let asked = patch(json!({"type": "realtime", "instructions": "Be rude.", "max_output_tokens": 7,
            "audio": {"input": {"turn_detection": null, "noise_reduction": null},
                      "output": {"voice": "sue", "speed": 1.2}}}));
        let left = patch(json!({"type": "realtime", "max_output_tokens": 7,
            "audio": {"input": {"noise_reduction": null}, "output": {"speed": 1.2}}}));
        assert_eq!(asked.clone().without(Some(&locked)), left);
        assert_eq!(asked.clone().without(None), asked);
    }
}
