//! Who asks a set for what is not in it, and what the server is asked for on
//! their behalf.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::oneshot;

use crate::xds::{
    stream::Interest,
    update::{Gone, Update},
};

/// How many names a server is asked for that has not said anything of them.
/// Whoever asks for more goes without.
const MAX_UNTOLD: usize = 4096;

/// What somebody has asked for, by name. `I` keeps the server asked.
pub(super) struct Askers<I = Interest> {
    asked: HashMap<Arc<str>, Asked<I>>,
    /// How many of them the server has not said anything of.
    untold: usize,
    /// Somebody waits.
    awaited: bool,
}

/// One name.
struct Asked<I> {
    /// The server is asked for it as long as this lives.
    interest: Option<I>,
    /// What the resource is known as; another name where the server knows it by
    /// more than one.
    resource: Arc<str>,
    /// All that there is to say of it has been said.
    told: bool,
    waiting: Vec<oneshot::Sender<()>>,
}

impl<I> Default for Askers<I> {
    fn default() -> Self {
        Self {
            asked: HashMap::new(),
            untold: 0,
            awaited: false,
        }
    }
}

impl<I> Askers<I> {
    /// Somebody waits for a resource that is there, and warms.
    pub fn wait(&mut self, name: Arc<str>, answered: oneshot::Sender<()>) {
        let new = || Asked {
            interest: None,
            resource: name.clone(),
            told: true,
            waiting: Vec::new(),
        };
        let asked = self.asked.entry(name.clone()).or_insert_with(new);
        asked.waiting.push(answered);
        self.awaited = true;
    }

    /// Somebody waits for a resource that the server has to be asked for with
    /// `subscribe`; or not, when it has been asked and said what there is to say,
    /// or when too many are waited for. `warms`: whether a resource does.
    pub fn ask(
        &mut self,
        name: Arc<str>,
        answered: oneshot::Sender<()>,
        subscribe: impl FnOnce(&str) -> I,
        warms: impl FnOnce(&str) -> bool,
    ) {
        if let Some(asked) = self.asked.get_mut(&name) {
            if !asked.told || warms(&asked.resource) {
                asked.waiting.push(answered);
                self.awaited = true;
            }
            return;
        }
        if self.untold >= MAX_UNTOLD {
            self.give_up();
        }
        if self.untold >= MAX_UNTOLD {
            return;
        }
        self.untold += 1;
        self.awaited = true;
        let asked = Asked {
            interest: Some(subscribe(&name)),
            resource: name.clone(),
            told: false,
            waiting: vec![answered],
        };
        self.asked.insert(name, asked);
    }

    /// No longer asks for what nobody waits for any more.
    fn give_up(&mut self) {
        let is_awaited = |asked: &Asked<I>| asked.waiting.iter().any(|one| !one.is_closed());
        self.asked
            .retain(|_, asked| asked.told || is_awaited(asked));
        self.untold = self.asked.values().filter(|asked| !asked.told).count();
    }

    /// Notes of what an answer speaks. What it says is not there may be when
    /// somebody asks again, so the server is then asked again.
    pub fn note(&mut self, update: &Update) {
        for received in &update.resources {
            for name in received.aliases.iter().chain([&received.name]) {
                if let Some(asked) = self.asked.get_mut(name) {
                    self.untold -= usize::from(!std::mem::replace(&mut asked.told, true));
                    asked.resource = received.name.clone();
                }
            }
        }
        if let Gone::Named(names) = &update.gone
            && !names.is_empty()
        {
            let is_gone = |name: &Arc<str>| names.contains(name);
            let gone = self
                .asked
                .extract_if(|name, asked| is_gone(name) || is_gone(&asked.resource));
            self.untold -= gone.filter(|(_, asked)| !asked.told).count();
        }
    }

    /// Whether somebody may wait.
    pub fn is_awaited(&self) -> bool {
        self.awaited
    }

    /// Answers those who wait for what is in force now. `warms`: whether a resource
    /// does still.
    pub fn answer(&mut self, warms: impl Fn(&str) -> bool) {
        let mut awaited = false;
        self.asked.retain(|_, asked| {
            if asked.told && !asked.waiting.is_empty() && !warms(&asked.resource) {
                for one in asked.waiting.drain(..) {
                    // Whoever asked may have gone.
                    one.send(()).ok();
                }
            }
            awaited |= !asked.waiting.is_empty();
            !asked.waiting.is_empty() || asked.interest.is_some()
        });
        self.awaited = awaited;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::{Receiver, error::TryRecvError};

    use super::*;
    use crate::xds::{resource::Encoded, update::Received};

    fn ask(askers: &mut Askers<()>, name: &str, begun: &mut usize) -> Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        askers.ask(name.into(), sender, |_| *begun += 1, |_| false);
        receiver
    }

    fn update(names: &[&str], aliases: &[&str], gone: &[&str]) -> Update {
        let received = names.iter().map(|&name| Received {
            name: name.into(),
            aliases: aliases.iter().map(|&alias| alias.into()).collect(),
            version: Arc::default(),
            resource: Encoded::Message(bytes::Bytes::new()),
        });
        Update {
            version_info: Arc::default(),
            resources: received.collect(),
            gone: Gone::Named(gone.iter().map(|&name| name.into()).collect()),
        }
    }

    #[test]
    fn all_who_ask_for_a_name_are_answered_at_once() {
        let (mut askers, mut begun) = (Askers::default(), 0);
        let mut one = ask(&mut askers, "a", &mut begun);
        let mut two = ask(&mut askers, "a", &mut begun);
        let mut other = ask(&mut askers, "b", &mut begun);
        assert_eq!(begun, 2);
        askers.note(&update(&["known otherwise"], &["a"], &[]));
        askers.answer(|name| name == "known otherwise");
        assert_eq!(one.try_recv(), Err(TryRecvError::Empty));
        askers.answer(|_| false);
        assert_eq!((one.try_recv(), two.try_recv()), (Ok(()), Ok(())));
        assert_eq!(other.try_recv(), Err(TryRecvError::Empty));
        // The server has said of it what there is to say, and tells what changes.
        assert_eq!(
            ask(&mut askers, "a", &mut begun).try_recv(),
            Err(TryRecvError::Closed)
        );
        assert_eq!(begun, 2);
    }

    #[test]
    fn what_is_not_there_is_asked_for_again() {
        let (mut askers, mut begun) = (Askers::default(), 0);
        let mut one = ask(&mut askers, "a", &mut begun);
        askers.note(&update(&[], &[], &["a"]));
        assert_eq!(one.try_recv(), Err(TryRecvError::Closed));
        let _two = ask(&mut askers, "a", &mut begun);
        assert_eq!(begun, 2);
    }

    #[test]
    fn no_more_is_asked_for_than_may_be() {
        let (mut askers, mut begun) = (Askers::default(), 0);
        let mut first: Vec<_> = (0..MAX_UNTOLD)
            .map(|n| ask(&mut askers, &n.to_string(), &mut begun))
            .collect();
        let beyond = ask(&mut askers, "beyond", &mut begun).try_recv();
        assert_eq!(beyond, Err(TryRecvError::Closed));
        assert_eq!(begun, MAX_UNTOLD);
        // Who has gone makes room.
        first.pop();
        let beyond = ask(&mut askers, "beyond", &mut begun).try_recv();
        assert_eq!(beyond, Err(TryRecvError::Empty));
        assert_eq!(begun, MAX_UNTOLD + 1);
    }
}
