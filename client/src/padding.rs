//! The setting `padding`: a class by its name, or a table with the class and its figures.

use std::fmt;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use tunic_proto::cell::CELL_LEN;
use tunic_proto::padding::{Budget, ClientPadding, LinkMode, MachineKind, MachineSpec, Rates, Refusal};

use crate::core::pool::PATIENCE;

/// Dummy circuits at a time.
const MAX_DUMMIES: u8 = 8;
/// The bounds of `cover_ms`: a circuit carries 16,384 cells of cover before its relays end it (docs/protocol.md §11.7), and lives ten
/// minutes.
const MIN_COVER_MS: u32 = 50;
const MAX_COVER_MS: u32 = 60_000;

/// How much cover a client gives its traffic. docs/cover-traffic.md says what each costs and does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// None.
    Off,
    /// The client alone pads a silent channel, seldom.
    Reduced,
    /// Both sides pad a silent channel.
    #[default]
    Normal,
    /// As normal, and machines at the client and its guard shape what each circuit carries.
    Adaptive,
    /// Both sides send at fixed rates.
    Constant,
}

impl Class {
    /// The class as it stands in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Class::Off => "off",
            Class::Reduced => "reduced",
            Class::Normal => "normal",
            Class::Adaptive => "adaptive",
            Class::Constant => "constant",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A class and its figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PaddingConfig {
    /// The class.
    pub class: Class,
    /// `constant`: milliseconds between two ticks, on average.
    pub tick_ms: u16,
    /// `constant`: cells to the guard each tick.
    pub forward_cells: u16,
    /// `constant`: cells from the guard each tick.
    pub backward_cells: u16,
    /// `constant`: how often the rates may be doubled while they are used up.
    pub steps: u8,
    /// `constant`: dummy circuits.
    pub cover_circuits: u8,
    /// `constant`: milliseconds between two cells of a dummy circuit, on average.
    pub cover_ms: u32,
    /// `adaptive`: the machine.
    pub machine: MachineKind,
    /// `adaptive`: its parameters in order; what is missing has the usual value.
    pub machine_parameters: Vec<u32>,
    /// `adaptive`: bytes of padding on a circuit in each direction before the share counts.
    pub machine_bytes: u64,
    /// `adaptive`: what may follow, in percent of everything else on the circuit.
    pub machine_percent: u16,
}

impl Default for PaddingConfig {
    fn default() -> Self {
        PaddingConfig {
            class: Class::default(),
            tick_ms: 10,
            forward_cells: 1,
            backward_cells: 4,
            steps: 0,
            cover_circuits: 2,
            cover_ms: 400,
            machine: MachineKind::Tunic,
            machine_parameters: Vec::new(),
            machine_bytes: 10 << 20,
            machine_percent: 100,
        }
    }
}

impl PaddingConfig {
    /// This class with the default figures.
    pub fn of(class: Class) -> Self {
        PaddingConfig { class, ..Self::default() }
    }

    /// The fixed rates.
    pub fn rates(&self) -> Rates {
        Rates { tick_ms: self.tick_ms, forward: self.forward_cells, backward: self.backward_cells }
    }

    /// The machine with its budgets, the same in both directions.
    fn machine_spec(&self) -> Result<MachineSpec, Refusal> {
        let cells = (self.machine_bytes / CELL_LEN as u64).try_into().unwrap_or(u32::MAX);
        let budget = Budget { cells, percent: self.machine_percent };
        MachineSpec::new(self.machine, &self.machine_parameters, budget, budget)
    }

    /// What is asked of a guard.
    pub fn asked(&self) -> ClientPadding {
        let link = match self.class {
            Class::Off => LinkMode::Off,
            Class::Reduced => LinkMode::Reduced,
            Class::Normal | Class::Adaptive => LinkMode::Normal,
            Class::Constant => LinkMode::Constant(self.rates()),
        };
        // A configuration that names an impossible machine is refused before it comes to this.
        let machine = self.machine_spec().ok().filter(|_| self.class == Class::Adaptive);
        ClientPadding { link, steps: self.steps, machine }
    }

    /// Dummy circuits to keep.
    pub fn dummy_circuits(&self) -> u64 {
        if self.class == Class::Constant { self.cover_circuits.into() } else { 0 }
    }

    /// Whether all circuits go over one guard: each costs the whole rate.
    pub fn has_one_guard(&self) -> bool {
        self.class == Class::Constant
    }

    /// How long after a spare circuit was taken another one is begun.
    pub fn spare_patience(&self) -> Duration {
        if self.class == Class::Constant { PATIENCE } else { Duration::ZERO }
    }

    /// The time between two cells of one, on average.
    pub fn cover_interval(&self) -> Duration {
        Duration::from_millis(self.cover_ms.into())
    }

    /// What cannot be, if anything.
    pub fn problem(&self) -> Option<&'static str> {
        if !self.rates().is_legal() {
            return Some(
                "`padding` needs 5 to 1000 tick_ms, and 1 to 128 forward_cells and backward_cells for each tick",
            );
        }
        let covers =
            self.cover_circuits <= MAX_DUMMIES && (MIN_COVER_MS..=MAX_COVER_MS).contains(&self.cover_ms);
        if self.steps > ClientPadding::MAX_STEPS || !covers {
            return Some(
                "`padding` takes 0 to 7 steps, 0 to 8 cover_circuits, and 50 to 60000 cover_ms between their cells",
            );
        }
        self.machine_spec().is_err().then_some(
            "`padding.machine_parameters` has too many figures, or one that the machine cannot have (docs/cover-traffic.md)",
        )
    }
}

/// Reads the name of a class, or the table.
pub(crate) fn name_or_table<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PaddingConfig, D::Error> {
    deserializer.deserialize_any(NameOrTable)
}

struct NameOrTable;

impl<'de> Visitor<'de> for NameOrTable {
    type Value = PaddingConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a class of padding, or a table with `class` and its figures")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<PaddingConfig, E> {
        Class::deserialize(serde::de::value::StrDeserializer::new(name)).map(PaddingConfig::of)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PaddingConfig, A::Error> {
        PaddingConfig::deserialize(MapAccessDeserializer::new(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, EXAMPLE};
    use tunic_net::config::parse;

    fn read(text: &str) -> Result<PaddingConfig, String> {
        parse::<Config>(text, EXAMPLE).map(|config| config.padding).map_err(|error| error.to_string())
    }

    #[test]
    fn a_class_stands_alone_or_with_its_figures() {
        for class in [Class::Off, Class::Reduced, Class::Normal, Class::Adaptive, Class::Constant] {
            assert_eq!(read(&format!("padding = \"{class}\"")), Ok(PaddingConfig::of(class)));
        }
        let config = read("[padding]\nclass = \"constant\"\ntick_ms = 50\nbackward_cells = 5").unwrap();
        let rates = Rates { tick_ms: 50, forward: 1, backward: 5 };
        assert_eq!(config.asked(), LinkMode::Constant(rates).into());
        assert_eq!(config.dummy_circuits(), 2);
        assert_eq!(PaddingConfig::default().dummy_circuits(), 0);
    }

    #[test]
    fn only_the_adaptive_class_asks_for_machines() {
        let asked = |text: &str| read(text).unwrap().asked();
        assert_eq!(asked("padding = \"normal\""), LinkMode::Normal.into());
        let machine = asked("padding = \"adaptive\"").machine.unwrap();
        assert_eq!(
            (machine.kind, machine.backward),
            (MachineKind::Tunic, Budget { cells: 20_480, percent: 100 })
        );
        let given = asked("[padding]\nclass = \"adaptive\"\nmachine = \"break-pad\"\nmachine_bytes = 511");
        let machine = given.machine.unwrap();
        assert_eq!((machine.kind, machine.forward.cells), (MachineKind::BreakPad, 0));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(read("padding = \"much\"").unwrap_err().contains("much"));
        assert!(read("padding = 3").unwrap_err().contains("a class of padding"));
        let error = read("[padding]\nclas = \"off\"").unwrap_err();
        assert!(error.contains("padding.clas"), "{error}");
        assert!(PaddingConfig { tick_ms: 1, ..PaddingConfig::default() }.problem().is_some());
        assert_eq!(PaddingConfig::default().problem(), None);
        let parameters = vec![1];
        assert!(PaddingConfig { steps: 8, ..PaddingConfig::default() }.problem().is_some());
        assert!(PaddingConfig { cover_ms: 0, ..PaddingConfig::default() }.problem().is_some());
        assert!(
            PaddingConfig { machine_parameters: parameters, ..PaddingConfig::default() }.problem().is_some()
        );
        assert!(read("[padding]\nmachine = \"perpetual\"").unwrap_err().contains("perpetual"));
    }
}
