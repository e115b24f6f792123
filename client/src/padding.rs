//! The setting `padding`: a class by its name, or a table with the class and its figures.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use tunic_proto::padding::{LinkMode, Rates};

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PaddingConfig {
    /// The class.
    pub class: Class,
    /// `constant`: milliseconds between two ticks.
    pub tick_ms: u16,
    /// `constant`: cells to the guard each tick.
    pub forward_cells: u16,
    /// `constant`: cells from the guard each tick.
    pub backward_cells: u16,
}

impl Default for PaddingConfig {
    fn default() -> Self {
        PaddingConfig { class: Class::default(), tick_ms: 20, forward_cells: 2, backward_cells: 8 }
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

    /// What is asked of a guard.
    pub fn link_mode(&self) -> LinkMode {
        match self.class {
            Class::Off => LinkMode::Off,
            Class::Reduced => LinkMode::Reduced,
            Class::Normal => LinkMode::Normal,
            Class::Constant => LinkMode::Constant(self.rates()),
        }
    }

    /// What cannot be, if anything.
    pub fn problem(&self) -> Option<&'static str> {
        (!self.rates().is_legal()).then_some(
            "`padding` needs 5 to 1000 tick_ms, and 1 to 128 forward_cells and backward_cells for each tick",
        )
    }
}

impl<'de> Deserialize<'de> for PaddingConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NameOrTable)
    }
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
        Table::deserialize(MapAccessDeserializer::new(map)).map(PaddingConfig::from)
    }
}

#[derive(Deserialize)]
#[serde(default)]
struct Table {
    class: Class,
    tick_ms: u16,
    forward_cells: u16,
    backward_cells: u16,
}

impl Default for Table {
    fn default() -> Self {
        let PaddingConfig { class, tick_ms, forward_cells, backward_cells } = PaddingConfig::default();
        Table { class, tick_ms, forward_cells, backward_cells }
    }
}

impl From<Table> for PaddingConfig {
    fn from(Table { class, tick_ms, forward_cells, backward_cells }: Table) -> Self {
        PaddingConfig { class, tick_ms, forward_cells, backward_cells }
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
        for class in [Class::Off, Class::Reduced, Class::Normal, Class::Constant] {
            assert_eq!(read(&format!("padding = \"{class}\"")), Ok(PaddingConfig::of(class)));
        }
        let config = read("[padding]\nclass = \"constant\"\ntick_ms = 10\nbackward_cells = 4").unwrap();
        let rates = Rates { tick_ms: 10, forward: 2, backward: 4 };
        assert_eq!(config.link_mode(), LinkMode::Constant(rates));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(read("padding = \"much\"").unwrap_err().contains("much"));
        assert!(read("padding = 3").unwrap_err().contains("a class of padding"));
        let error = read("[padding]\nclas = \"off\"").unwrap_err();
        assert!(error.contains("padding.clas"), "{error}");
        assert!(PaddingConfig { tick_ms: 1, ..PaddingConfig::default() }.problem().is_some());
        assert_eq!(PaddingConfig::default().problem(), None);
    }
}
