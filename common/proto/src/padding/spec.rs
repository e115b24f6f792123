//! Which machine shall run on a circuit, with which parameters and budgets, and how a client asks for it
//! (docs/protocol.md §11.6).

use super::budget::Budget;
use super::mode::Refusal;

/// The machines that this version knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MachineKind {
    /// Ours: a rate that depends on nothing but how much came, and sizes of few classes.
    Tunic,
    /// FRONT (Gong and Wang, USENIX Security 2020): padding at random, most of it in front.
    Front,
    /// RegulaTor (Holland and Hopper, PETS 2022): surges that decay.
    Regulator,
    /// Tamaraw (Cai et al., CCS 2014): a fixed rate, and sizes that are multiples.
    Tamaraw,
    /// Interspace (Pulls, 2020): machines that an evolution found.
    Interspace,
    /// Break-Pad (of the maybenot authors): padding that breaks bursts up.
    BreakPad,
}

/// A parameter: its name in the configuration's documentation, and the smallest, the usual and the largest value.
type Parameter = (&'static str, u32, u32, u32);

impl MachineKind {
    pub(super) const ALL: [MachineKind; 6] = [
        MachineKind::Tunic,
        MachineKind::Front,
        MachineKind::Regulator,
        MachineKind::Tamaraw,
        MachineKind::Interspace,
        MachineKind::BreakPad,
    ];

    /// The name on the wire and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            MachineKind::Tunic => "tunic",
            MachineKind::Front => "front",
            MachineKind::Regulator => "regulator",
            MachineKind::Tamaraw => "tamaraw",
            MachineKind::Interspace => "interspace",
            MachineKind::BreakPad => "break-pad",
        }
    }

    fn from_name(name: &[u8]) -> Option<MachineKind> {
        Self::ALL.into_iter().find(|kind| kind.name().as_bytes() == name)
    }

    /// The parameters in order: name, smallest, usual and largest value. No machine may ask a relay for more than 3,200 cells a second:
    /// each is a decision that costs time even where a budget lets no cell go.
    pub fn parameters(self) -> &'static [Parameter] {
        match self {
            MachineKind::Tunic => &[
                ("milliseconds of a backward tick", 20, 22, 200),
                ("backward cells of a tick", 1, 5, 64),
                ("milliseconds of a forward tick", 10, 80, 1_000),
                ("forward cells of a tick", 1, 2, 16),
                ("forward cells at once, with the first cell and once more with the next", 1, 2, 16),
                ("backward cells of the smallest class", 10, 720, 20_000),
                ("permille by which a class is larger than the one below", 1_050, 1_600, 4_000),
                ("classes at the first rate, before it grows like the classes", 1, 2, 16),
                ("milliseconds of silence that end a load", 50, 300, 10_000),
            ],
            MachineKind::Front => &[
                ("most forward padding cells", 2, 1_500, 20_000),
                ("most backward padding cells", 2, 3_000, 20_000),
                ("shortest window in milliseconds", 100, 1_000, 60_000),
                ("longest window in milliseconds", 101, 14_000, 60_001),
            ],
            MachineKind::Regulator => &[
                ("cells per second of a surge", 2, 277, 3_200),
                ("permille that is left of the rate after a second", 100, 940, 999),
                ("permille of the rate that must queue for a new surge", 100, 3_550, 10_000),
                ("most padding cells", 2, 3_550, 20_000),
                ("permille of backward cells for each forward cell", 1_000, 3_950, 20_000),
                ("milliseconds that a forward cell waits at most", 10, 1_770, 2_000),
            ],
            MachineKind::Tamaraw => &[
                ("microseconds between forward cells", 1_000, 16_000, 1_000_000),
                ("microseconds between backward cells", 320, 4_000, 1_000_000),
                ("milliseconds of silence that end a load", 50, 1_000, 10_000),
            ],
            MachineKind::Interspace | MachineKind::BreakPad => &[],
        }
    }
}

/// What a client asks a relay of its circuit for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineSpec {
    /// The machine.
    pub kind: MachineKind,
    /// Its parameters, all of them.
    pub parameters: Vec<u32>,
    /// What the client will send at most.
    pub forward: Budget,
    /// What the relay shall send at most.
    pub backward: Budget,
}

impl MachineSpec {
    /// With the usual parameters in place of those that are missing.
    ///
    /// # Errors
    /// [`Refusal::BadParameters`] if there are too many, or one is out of its range.
    pub fn new(
        kind: MachineKind,
        given: &[u32],
        forward: Budget,
        backward: Budget,
    ) -> Result<MachineSpec, Refusal> {
        let usual = kind.parameters();
        if given.len() > usual.len() {
            return Err(Refusal::BadParameters);
        }
        let parameters: Vec<u32> = usual
            .iter()
            .enumerate()
            .map(|(n, (_, _, usual, _))| given.get(n).copied().unwrap_or(*usual))
            .collect();
        let in_range = |(value, (_, least, _, most)): (&u32, &Parameter)| (*least..=*most).contains(value);
        let fits = parameters.iter().zip(usual).all(in_range);
        // FRONT draws between the two.
        let ordered = kind != MachineKind::Front || parameters[2] < parameters[3];
        match fits && ordered {
            true => Ok(MachineSpec { kind, parameters, forward, backward }),
            false => Err(Refusal::BadParameters),
        }
    }

    /// The data of `PAD`.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut data = Vec::new();
        for budget in [self.forward, self.backward] {
            data.extend(budget.cells.to_be_bytes());
            data.extend(budget.percent.to_be_bytes());
        }
        let name = self.kind.name().as_bytes();
        data.push(name.len() as u8);
        data.extend(name);
        data.push(self.parameters.len() as u8);
        self.parameters.iter().for_each(|value| data.extend(value.to_be_bytes()));
        data
    }

    /// Reads the data of `PAD`. `None` if it is malformed; the inner error is what to refuse it with.
    pub(crate) fn decode(data: &[u8]) -> Option<Result<MachineSpec, Refusal>> {
        let (forward, data) = decode_budget(data)?;
        let (backward, data) = decode_budget(data)?;
        let (length, data) = data.split_first()?;
        let (name, data) = data.split_at_checked((*length).into())?;
        let (count, data) = data.split_first()?;
        let (values, rest) = data.as_chunks::<4>();
        if values.len() != usize::from(*count) || !rest.is_empty() {
            return None;
        }
        let values: Vec<u32> = values.iter().map(|value| u32::from_be_bytes(*value)).collect();
        let Some(kind) = MachineKind::from_name(name) else { return Some(Err(Refusal::UnknownMachine)) };
        if values.len() != kind.parameters().len() {
            return Some(Err(Refusal::BadParameters));
        }
        Some(MachineSpec::new(kind, &values, forward, backward))
    }
}

fn decode_budget(data: &[u8]) -> Option<(Budget, &[u8])> {
    let ([c0, c1, c2, c3, p0, p1], rest) = data.split_first_chunk()?;
    let cells = u32::from_be_bytes([*c0, *c1, *c2, *c3]);
    Some((Budget { cells, percent: u16::from_be_bytes([*p0, *p1]) }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget = Budget { cells: 1_000, percent: 60 };

    #[test]
    fn what_is_asked_for_reads_back() {
        for kind in MachineKind::ALL {
            let spec = MachineSpec::new(kind, &[], BUDGET, Budget { cells: 7, percent: 8 }).unwrap();
            assert_eq!(MachineSpec::decode(&spec.encode()), Some(Ok(spec)));
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let spec = |given: &[u32]| MachineSpec::new(MachineKind::Tamaraw, given, BUDGET, BUDGET);
        assert!(spec(&[1_000]).is_ok());
        for bad in [&[999][..], &[u32::MAX], &[1_000, 4_000, 50, 1]] {
            assert_eq!(spec(bad), Err(Refusal::BadParameters));
        }
        let empty_window = MachineSpec::new(MachineKind::Front, &[2, 2, 500, 500], BUDGET, BUDGET);
        assert_eq!(empty_window, Err(Refusal::BadParameters));
        let mut data = spec(&[]).unwrap().encode();
        data[13] = b'x';
        assert_eq!(MachineSpec::decode(&data), Some(Err(Refusal::UnknownMachine)));
        assert_eq!(MachineSpec::decode(&data[..data.len() - 1]), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(data in proptest::collection::vec(0_u8.., 0..80)) {
            let _ = MachineSpec::decode(&data);
        }
    }
}
