//! The Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998): the generator whose
//! numbers Envoy draws.

const SIZE: usize = 624;
const MIDDLE: usize = 397;

pub(super) struct Twister {
    state: [u32; SIZE],
    at: usize,
}

impl Twister {
    pub(super) fn new(seed: u32) -> Self {
        let mut state = [seed; SIZE];
        for at in 1..SIZE {
            let before = state[at - 1];
            let mixed = before ^ (before >> 30);
            state[at] = mixed.wrapping_mul(1_812_433_253).wrapping_add(at as u32);
        }
        Self { state, at: SIZE }
    }

    fn twist(&mut self) {
        for at in 0..SIZE {
            let joined = self.state[at] & 0x8000_0000 | self.state[(at + 1) % SIZE] & 0x7fff_ffff;
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[at] = self.state[(at + MIDDLE) % SIZE] ^ (joined >> 1) ^ odd;
        }
        self.at = 0;
    }

    fn next(&mut self) -> u32 {
        if self.at == SIZE {
            self.twist();
        }
        let mut word = self.state[self.at];
        self.at += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// Below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        let step = (1 << 32) / u64::from(bound);
        loop {
            // What does not divide evenly is drawn again.
            let drawn = u64::from(self.next()) / step;
            if let Some(drawn) = u32::try_from(drawn).ok().filter(|drawn| *drawn < bound) {
                return drawn;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference gives this as the ten thousandth number of its usual seed.
    #[test]
    fn it_is_the_standard_one() {
        let mut random = Twister::new(5489);
        let last = (0..10_000).map(|_| random.next()).last();
        assert_eq!(last, Some(4_123_659_995));
    }
}
