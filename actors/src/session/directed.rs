//! A session whose words a director decides: what it is asked, what it is told, and when it is woken.

use std::time::Duration;

use viva_models::Role;

use crate::director::{Cue, Wake};
use crate::event::SessionEvent;
use crate::ports::SessionMsg;
use crate::turn::{Endpointing, Input, TurnConfig};
use crate::types::{Epoch, MediaTime};

use super::{Report, State};

/// The shortest wait before the silence is looked at again: the caller's clock may stand still.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Whoever writes is silent while they do: people type some 40 words a minute and speak 130.
const WRITING_SLOWER: u64 = 3;

/// What a session keeps for its director.
#[derive(Default)]
pub(super) struct Directed {
    /// Since when nobody speaks, on the media clock.
    quiet_since: MediaTime,
    /// What the timer waits for, and since when it was quiet.
    timer: Option<(Wake, MediaTime, tokio::task::AbortHandle)>,
    /// The reply that is being ordered is one into silence.
    silent: bool,
    /// Where the media clock stood when the caller last wrote, and since when nobody speaks, on the session's clock.
    /// Whoever writes sends no audio, and is silent by the latter.
    wrote: Option<MediaTime>,
    quiet_mono_ms: u64,
}

impl Directed {
    pub(super) fn stop(&mut self) {
        if let Some((.., timer)) = self.timer.take() {
            timer.abort();
        }
    }
}

impl State {
    fn mono_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// What the director is asked for this reply, if there is one.
    pub(super) fn cue(&mut self, epoch: Epoch) -> Option<Cue> {
        self.soil.director.as_ref()?;
        let heard = Some(self.caller.words.clone()).filter(|words| !words.trim().is_empty());
        let silent = std::mem::take(&mut self.directed.silent);
        let (spoke_ms, ended_ms_ago) = match self.caller.item {
            Some(_) => {
                let ended = self.caller.ended.map_or(0, |at| at.elapsed().as_millis() as u64);
                (self.caller.speech_end.since_ms(self.caller.since), ended)
            }
            None => (0, 0),
        };
        let words = if silent { None } else { heard.or_else(|| self.typed()) };
        if words.is_some() && self.caller.item.is_none() {
            self.directed.wrote = Some(self.now());
        }
        let now_ms = self.mono_ms();
        Some(Cue { epoch, words, spoke_ms, ended_ms_ago, now_ms })
    }

    /// What the caller has written since we last spoke.
    fn typed(&self) -> Option<String> {
        let items = self.conversation.items().iter().rev();
        let theirs: Vec<&str> =
            items.take_while(|i| i.role == Role::User).map(|item| item.text.as_str()).collect();
        let text = theirs.into_iter().rev().collect::<Vec<_>>().join(" ");
        Some(text).filter(|text| !text.trim().is_empty())
    }

    pub(super) fn direct_discarded(&mut self, epoch: Epoch) {
        if let Some(director) = &self.soil.director {
            director.discarded(epoch);
        }
    }

    pub(super) fn direct_committed(&mut self, epoch: Epoch) {
        if let Some(director) = &self.soil.director {
            director.committed(epoch, self.mono_ms());
        }
    }

    pub(super) fn direct_ended(&mut self, epoch: Epoch, heard: &str, whole: bool) {
        let Some(director) = self.soil.director.clone() else { return };
        director.ended(epoch, heard, whole, self.mono_ms());
        self.directed.quiet_since = self.now();
        self.directed.quiet_mono_ms = self.mono_ms();
        self.direct_manner();
        if director.over() {
            self.closing = Some("the conversation is over".into());
            return;
        }
        // The question that was asked is read before its answer comes.
        if whole && !self.machine.caller_speaks() {
            self.read_ahead("", None);
        }
    }

    /// Listens as the director wants it, within what the client has set.
    pub(super) fn direct_manner(&mut self) {
        let Some(director) = &self.soil.director else { return };
        let manner = director.manner();
        let base = &self.settings.turn;
        let endpointing = match base.endpointing {
            Endpointing::Semantic { patience } => {
                Endpointing::Semantic { patience: patience * manner.patience }
            }
            other => other,
        };
        let turn_ms_max = manner.turn_ms_max.min(base.turn_ms_max);
        let turn = TurnConfig { endpointing, turn_ms_max, ..base.clone() };
        if *self.machine.config() != turn {
            self.machine.configure(turn.clone());
            self.log(SessionEvent::Configured { turn });
        }
    }

    /// After everything that happened: tells clients what is new, and sets the timer.
    pub(super) fn direct(&mut self) {
        let Some(director) = self.soil.director.clone() else { return };
        if let Some(news) = director.news(self.mono_ms()) {
            self.log(SessionEvent::Directed { news });
        }
        if self.machine.state() != "listening" {
            self.directed.stop();
            return;
        }
        let quiet = self.directed.quiet_since.max(self.caller.speech_end);
        let wake = director.wake();
        let set = self.directed.timer.as_ref();
        if set.is_some_and(|(w, since, task)| *w == wake && *since == quiet && !task.is_finished()) {
            return;
        }
        self.directed.quiet_since = quiet;
        self.directed.stop();
        let Some(left) = self.wake_in(wake) else { return };
        let me = self.me.clone();
        let task = me.send_after(left.max(LOOK_AGAIN), || SessionMsg::Internal(Report::Wake));
        self.directed.timer = Some((wake, quiet, task.abort_handle()));
    }

    /// Whether the caller has sent no audio since they last wrote, or none at all. A line that stalls in the midst of
    /// talk is another matter: nobody knows what is being said there.
    fn only_writes(&self) -> bool {
        self.directed.wrote.unwrap_or_default() == self.now()
    }

    /// How long until the director is to be woken, if the silence goes on.
    fn wake_in(&self, wake: Wake) -> Option<Duration> {
        let (silent, slower) = if self.only_writes() {
            (self.mono_ms().saturating_sub(self.directed.quiet_mono_ms), WRITING_SLOWER)
        } else {
            (self.now().since_ms(self.directed.quiet_since), 1)
        };
        let by_silence = wake.silent_ms.map(|ms| (ms * slower).saturating_sub(silent));
        let by_clock = wake.at_ms.map(|ms| ms.saturating_sub(self.mono_ms()));
        let left = by_silence.into_iter().chain(by_clock).min()?;
        Some(Duration::from_millis(left))
    }

    /// The timer rang.
    pub(super) fn woken(&mut self) {
        self.directed.timer = None;
        let Some(director) = self.soil.director.clone() else { return };
        let wake = director.wake();
        if self.machine.state() != "listening" || self.wake_in(wake).is_none_or(|left| !left.is_zero()) {
            // Somebody speaks, or the caller's clock stood still; the timer is set again after this.
            return;
        }
        if wake.hang_up {
            self.closing = Some("the conversation is over".into());
            return;
        }
        self.directed.silent = true;
        self.tell(Input::ReplyAsked);
    }
}
