//! The machines, made from their parameters: those of the `maybenot-machines` crate, and [ours](super::tunic).

use maybenot::{Error, Machine};
use maybenot_machines::{break_pad, front, interspace, regulator, tamaraw};

use super::spec::{MachineKind, MachineSpec};
use super::tunic::Tunic;

/// States that approximate FRONT's distribution.
const FRONT_STATES: usize = 200;
/// Steps that approximate RegulaTor's decay.
const REGULATOR_STEPS: usize = 20;
const US_PER_S: f64 = 1e6;
const US_PER_MS: f64 = 1e3;

/// The client's machines.
pub(super) fn client(spec: &MachineSpec, rng: &mut dyn rand_core_09::RngCore) -> Result<Vec<Machine>, Error> {
    let value = |n: usize| f64::from(spec.parameters.get(n).copied().unwrap_or_default());
    let mut rng = rng;
    Ok(match spec.kind {
        MachineKind::Tunic => Tunic::new(&spec.parameters).client()?,
        MachineKind::Front => {
            let (from, to) = (value(2) * US_PER_MS, value(3) * US_PER_MS);
            front::front(value(0) as u32, from, to, FRONT_STATES, &mut rng)
        }
        MachineKind::Regulator => regulator::regulator_client(value(4) / 1e3, value(5) / 1e3),
        MachineKind::Tamaraw => tamaraw::tamaraw(value(0) / US_PER_S, value(2) * US_PER_MS),
        MachineKind::Interspace => interspace::interspace_client(&mut rng),
        MachineKind::BreakPad => break_pad::break_pad_client(),
    })
}

/// The relay's machines.
pub(super) fn relay(spec: &MachineSpec, rng: &mut dyn rand_core_09::RngCore) -> Result<Vec<Machine>, Error> {
    let value = |n: usize| f64::from(spec.parameters.get(n).copied().unwrap_or_default());
    let mut rng = rng;
    Ok(match spec.kind {
        MachineKind::Tunic => Tunic::new(&spec.parameters).relay()?,
        MachineKind::Front => {
            let (from, to) = (value(2) * US_PER_MS, value(3) * US_PER_MS);
            front::front(value(1) as u32, from, to, FRONT_STATES, &mut rng)
        }
        MachineKind::Regulator => {
            let (rate, decay, surge) = (value(0), value(1) / 1e3, value(2) / 1e3);
            regulator::regulator_server(rate, decay, surge, value(3), REGULATOR_STEPS)
        }
        MachineKind::Tamaraw => tamaraw::tamaraw(value(1) / US_PER_S, value(2) * US_PER_MS),
        MachineKind::Interspace => interspace::interspace_server(&mut rng),
        MachineKind::BreakPad => break_pad::break_pad_server(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::padding::{Budget, MachineSpec};
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn every_machine_can_be_made_at_the_ends_of_its_ranges() {
        let budget = Budget { cells: 1, percent: 1 };
        for kind in MachineKind::ALL {
            let parameters = kind.parameters();
            let ends = [
                parameters.iter().map(|(_, least, ..)| *least).collect::<Vec<_>>(),
                parameters.iter().map(|(_, _, usual, _)| *usual).collect(),
                parameters.iter().map(|(.., most)| *most).collect(),
            ];
            for values in ends {
                let spec = MachineSpec::new(kind, &values, budget, budget).unwrap();
                let mut rng = super::super::runner::Generator(ChaCha20Rng::seed_from_u64(1));
                assert!(client(&spec, &mut rng).is_ok(), "{spec:?}");
                assert!(relay(&spec, &mut rng).is_ok(), "{spec:?}");
            }
        }
    }
    proptest::proptest! {
        /// The machines of the crate panic where they cannot be made, so no parameters that a peer may choose must get there.
        #[test]
        fn every_machine_can_be_made_within_its_ranges(fractions: [u16; 9], seed: u64) {
            let budget = Budget { cells: 1, percent: 1 };
            for kind in MachineKind::ALL {
                let within = |(fraction, (_, least, _, most)): (&u16, &(&str, u32, u32, u32))| {
                    least + (u64::from(most - least) * u64::from(*fraction) / 65_535) as u32
                };
                let values: Vec<u32> = fractions.iter().zip(kind.parameters()).map(within).collect();
                let Ok(spec) = MachineSpec::new(kind, &values, budget, budget) else { continue };
                let mut rng = super::super::runner::Generator(ChaCha20Rng::seed_from_u64(seed));
                proptest::prop_assert!(client(&spec, &mut rng).is_ok(), "{spec:?}");
                proptest::prop_assert!(relay(&spec, &mut rng).is_ok(), "{spec:?}");
            }
        }
    }
}
