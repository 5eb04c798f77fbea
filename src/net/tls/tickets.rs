//! Session tickets (RFC 5077, RFC 8446 4.6.1): the state of a session, which
//! only the holder of the key can read, kept by the client.
//!
//! A ticket is `name | iv | AES-256-CBC(time | state) | HMAC-SHA-256`. The HMAC
//! also covers what the session depends on, so that a key that several filter
//! chains share opens a ticket only where the same is asked of a client.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use aws_lc_rs::{
    cipher::{
        AES_256, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey,
        UnboundCipherKey,
    },
    hmac,
    iv::FixedLength,
    rand,
};
use rustls::server::ProducesTickets;

use crate::{digest::Digest, model::secret::TICKET_KEY_LENGTH};

/// How many seconds a session can be resumed, unless `session_timeout` says: of no
/// whole second, it says nothing, as in Envoy.
const LIFETIME: u64 = 2 * 3600;
/// How long a key of this process's own making encrypts.
const KEY_AGE: u64 = 6 * 3600;

const NAME: usize = 16;
const IV: usize = 16;
const TAG: usize = 32;
const TIME: usize = 8;

/// Tickets of one TLS context.
#[derive(Debug)]
pub(super) struct Tickets {
    keys: ArcSwap<Keys>,
    /// Made here and changed from time to time, rather than configured.
    own: bool,
    /// What a session depends on.
    context: [u8; 16],
    /// Seconds, not 0.
    lifetime: u64,
}

#[derive(Debug)]
struct Keys {
    /// The first encrypts, all decrypt.
    keys: Vec<Arc<Key>>,
    made: SystemTime,
}

struct Key {
    name: [u8; NAME],
    encrypt: PaddedBlockEncryptingKey,
    decrypt: PaddedBlockDecryptingKey,
    mac: hmac::Key,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

impl Key {
    /// In the order of Envoy's: name, HMAC key, AES key.
    fn new(bytes: &[u8; TICKET_KEY_LENGTH]) -> Option<Arc<Self>> {
        let (name, keys) = bytes.split_first_chunk::<NAME>()?;
        let (mac, aes) = keys.split_at(32);
        let cipher = || UnboundCipherKey::new(&AES_256, aes).ok();
        Some(Arc::new(Self {
            name: *name,
            encrypt: PaddedBlockEncryptingKey::cbc_pkcs7(cipher()?).ok()?,
            decrypt: PaddedBlockDecryptingKey::cbc_pkcs7(cipher()?).ok()?,
            mac: hmac::Key::new(hmac::HMAC_SHA256, mac),
        }))
    }

    fn random() -> Option<Arc<Self>> {
        let mut bytes = [0; TICKET_KEY_LENGTH];
        rand::fill(&mut bytes).ok()?;
        Self::new(&bytes)
    }

    fn seal(&self, context: &[u8], mut state: Vec<u8>) -> Option<Vec<u8>> {
        let sealed = self.encrypt.encrypt(&mut state).ok()?;
        let DecryptionContext::Iv128(iv) = sealed else {
            return None;
        };
        let iv: &[u8; IV] = iv.as_ref();
        let mut ticket = Vec::with_capacity(NAME + IV + state.len() + TAG);
        ticket.extend_from_slice(&self.name);
        ticket.extend_from_slice(iv);
        ticket.extend_from_slice(&state);
        let mut mac = hmac::Context::with_key(&self.mac);
        mac.update(context);
        mac.update(&ticket);
        ticket.extend_from_slice(mac.sign().as_ref());
        Some(ticket)
    }

    fn open(&self, context: &[u8], ticket: &[u8]) -> Option<Vec<u8>> {
        let (sealed, tag) = ticket.split_last_chunk::<TAG>()?;
        let signed = [context, sealed].concat();
        hmac::verify(&self.mac, &signed, tag).ok()?;
        let (iv, state) = sealed.get(NAME..)?.split_first_chunk::<IV>()?;
        let mut state = state.to_vec();
        let iv = DecryptionContext::Iv128(FixedLength::from(iv));
        let opened = self.decrypt.decrypt(&mut state, iv).ok()?.len();
        state.truncate(opened);
        Some(state)
    }
}

impl Tickets {
    /// `configured` keys, or with none of them keys of its own. Sessions that
    /// differ in `context` do not resume each other. `None` when there are no
    /// random numbers.
    pub(super) fn new(
        configured: &[[u8; TICKET_KEY_LENGTH]],
        context: Digest,
        lifetime: Option<Duration>,
    ) -> Option<Self> {
        let own = configured.is_empty();
        let keys = match own {
            true => vec![Key::random()?],
            false => configured.iter().map(Key::new).collect::<Option<_>>()?,
        };
        let made = SystemTime::now();
        Some(Self {
            keys: ArcSwap::from_pointee(Keys { keys, made }),
            own,
            context: context.to_bytes(),
            lifetime: match lifetime.map_or(0, |lifetime| lifetime.as_secs()) {
                0 => LIFETIME,
                seconds => seconds,
            },
        })
    }

    /// The keys in force; a key of its own gives way to a new one in time.
    fn keys(&self) -> Arc<Keys> {
        let keys = self.keys.load_full();
        let now = SystemTime::now();
        let old = now
            .duration_since(keys.made)
            .is_ok_and(|age| age.as_secs() >= KEY_AGE.max(self.lifetime));
        if !self.own || !old {
            return keys;
        }
        let Some(new) = Key::random() else {
            return keys;
        };
        let next = Arc::new(Keys {
            keys: vec![new, Arc::clone(&keys.keys[0])],
            made: now,
        });
        // Of two that do this at once the first has its way.
        let before = self.keys.compare_and_swap(&keys, Arc::clone(&next));
        match Arc::ptr_eq(&before, &keys) {
            true => next,
            false => self.keys.load_full(),
        }
    }
}

fn seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut state = Vec::with_capacity(TIME + plain.len() + IV);
        state.extend_from_slice(&seconds().to_be_bytes());
        state.extend_from_slice(plain);
        self.keys().keys[0].seal(&self.context, state)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let keys = self.keys();
        let key = keys.keys.iter().find(|key| ticket.starts_with(&key.name))?;
        let mut state = key.open(&self.context, ticket)?;
        let made = u64::from_be_bytes(*state.first_chunk::<TIME>()?);
        let age = seconds().checked_sub(made)?;
        if age >= self.lifetime {
            return None;
        }
        state.drain(..TIME);
        Some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_opens_where_the_key_and_the_context_are_the_same() {
        let tickets = |key: u8, context: u8, lifetime| {
            Tickets::new(&[[key; TICKET_KEY_LENGTH]], Digest::of(context), lifetime).unwrap()
        };
        let one = tickets(1, 7, None);
        let ticket = one.encrypt(b"a session").unwrap();
        assert_eq!(one.decrypt(&ticket).as_deref(), Some(&b"a session"[..]));
        let same = tickets(1, 7, None);
        assert_eq!(same.decrypt(&ticket).as_deref(), Some(&b"a session"[..]));
        assert_eq!(tickets(2, 7, None).decrypt(&ticket), None);
        assert_eq!(tickets(1, 8, None).decrypt(&ticket), None);
        let mut forged = ticket;
        forged[40] ^= 1;
        assert_eq!(one.decrypt(&forged), None);
    }

    #[test]
    fn a_ticket_opens_for_as_many_whole_seconds_as_it_may() {
        let tickets = |lifetime: f64| {
            let lifetime = Some(Duration::from_secs_f64(lifetime));
            Tickets::new(&[[1; TICKET_KEY_LENGTH]], Digest::of(7), lifetime).unwrap()
        };
        let one = tickets(60.0);
        let mut state = (seconds() - 10).to_be_bytes().to_vec();
        state.extend_from_slice(b"a session");
        let ticket = one.keys().keys[0].seal(&one.context, state).unwrap();
        for (lifetime, seconds, opens) in [
            (60.0, 60, true),
            (10.9, 10, false),
            // As good as none, which is two hours.
            (0.9, 7200, true),
            (0.0, 7200, true),
        ] {
            let tickets = tickets(lifetime);
            assert_eq!(ProducesTickets::lifetime(&tickets), seconds, "{lifetime}");
            assert_eq!(tickets.decrypt(&ticket).is_some(), opens, "{lifetime}");
        }
    }

    #[test]
    fn old_keys_still_decrypt() {
        let (old, new) = ([1; TICKET_KEY_LENGTH], [2; TICKET_KEY_LENGTH]);
        let before = Tickets::new(&[old], Digest::of(0), None).unwrap();
        let after = Tickets::new(&[new, old], Digest::of(0), None).unwrap();
        let ticket = before.encrypt(b"x").unwrap();
        assert_eq!(after.decrypt(&ticket).as_deref(), Some(&b"x"[..]));
        let ticket = after.encrypt(b"y").unwrap();
        assert_eq!(before.decrypt(&ticket), None);
    }

    #[test]
    fn keys_of_its_own_are_its_own() {
        let (a, b) = (
            Tickets::new(&[], Digest::of(0), None),
            Tickets::new(&[], Digest::of(0), None),
        );
        let ticket = a.unwrap().encrypt(b"x").unwrap();
        assert_eq!(b.unwrap().decrypt(&ticket), None);
    }
}
