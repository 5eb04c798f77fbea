//! What tells settings apart without keeping them.

use std::hash::{Hash, Hasher};

use aws_lc_rs::digest::{SHA256, digest};

/// Equal for what is equal, in every run; nobody can write two things that differ and
/// for which it is equal. Half of a SHA-256.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Digest(u128);

impl Digest {
    /// That of a value, by what it is hashed by.
    pub fn of(value: impl Hash) -> Self {
        let mut said = Said::default();
        value.hash(&mut said);
        said.digest()
    }

    /// That of some bytes.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let digest = digest(&SHA256, bytes);
        let (half, _) = digest.as_ref().split_first_chunk().expect("32 bytes");
        Self(u128::from_be_bytes(*half))
    }

    /// Its bytes.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

/// Takes down what values say, one after another.
#[derive(Debug, Default)]
pub struct Said(Vec<u8>);

impl Said {
    /// That of all that has been said.
    pub fn digest(&self) -> Digest {
        Digest::of_bytes(&self.0)
    }
}

impl Hasher for Said {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        self.digest().0 as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_in_its_parts_differs() {
        assert_eq!(Digest::of(("a", "b")), Digest::of(("a", "b")));
        assert_ne!(Digest::of(("a", "b")), Digest::of(("ab", "")));
        assert_ne!(Digest::of(vec![1u8, 2]), Digest::of(vec![1u8]));
        assert_ne!(Digest::of(None::<u8>), Digest::of(Some(0u8)));
    }

    #[test]
    fn it_is_half_of_a_sha256() {
        let digest = Digest::of_bytes(b"abc").to_bytes();
        assert_eq!(digest[..4], [0xba, 0x78, 0x16, 0xbf]);
    }
}
