//! A row's view of the field it sets: whether it has a value already, and the default.
//!
//! A row's slot returns one of these trait objects, so that a field may or may not have a default, and may be
//! an enum of which the row knows only the words. Used while a configuration is read, never by requests.

use crate::config::{Inherit, Setting, Span};

/// A field of a module's settings, set by a directive with one value.
pub trait Field<T> {
    /// Sets the value in this block. False if it is already set here; then nothing changes.
    #[must_use]
    fn set(&mut self, value: T, span: Span) -> bool;

    /// The value that applies if nothing sets the directive; `None` if the field has no default.
    fn default_value(&self) -> Option<&T>;
}

impl<T> Field<T> for Inherit<T> {
    fn set(&mut self, value: T, span: Span) -> bool {
        Self::set(self, value, span)
    }

    fn default_value(&self) -> Option<&T> {
        None
    }
}

impl<T> Field<T> for Setting<T> {
    fn set(&mut self, value: T, span: Span) -> bool {
        Self::set(self, value, span)
    }

    fn default_value(&self) -> Option<&T> {
        (!self.is_set()).then(|| self.value())
    }
}

/// An enum whose values are a directive's words. [`keywords!`](crate::config::keywords) implements it.
pub trait Keyword: Copy + PartialEq + 'static {
    /// The words as written in a configuration, in the order of the manual.
    const WORDS: &'static [&'static str];
    /// The value of each of [`Self::WORDS`].
    const VALUES: &'static [Self];

    /// The word for this value.
    fn word(self) -> &'static str {
        let index = Self::VALUES.iter().position(|value| *value == self);
        index.map_or("", |index| Self::WORDS[index])
    }
}

/// Assigns words to an enum: `keywords!(Linger { "off" => Off, "on" => On, "always" => Always });` A variant
/// without a word does not compile.
macro_rules! keywords {
    ($name:ty { $($word:literal => $variant:ident),+ $(,)? }) => {
        impl $crate::config::Keyword for $name {
            const WORDS: &'static [&'static str] = &[$($word),+];
            const VALUES: &'static [Self] = &[$(Self::$variant),+];

            fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }
    };
}
pub(crate) use keywords;

/// A field whose type is some [`Keyword`], with that type erased.
pub trait KeywordField {
    fn words(&self) -> &'static [&'static str];

    /// Sets the value to the word with this index. False if it is already set here; then nothing changes.
    #[must_use]
    fn set_word(&mut self, index: usize, span: Span) -> bool;

    fn default_word(&self) -> Option<&'static str>;
}

impl<K: Keyword> KeywordField for Setting<K> {
    fn words(&self) -> &'static [&'static str] {
        K::WORDS
    }

    fn set_word(&mut self, index: usize, span: Span) -> bool {
        self.set(K::VALUES[index], span)
    }

    fn default_word(&self) -> Option<&'static str> {
        self.default_value().map(|value| value.word())
    }
}

impl<K: Keyword> KeywordField for Inherit<K> {
    fn words(&self) -> &'static [&'static str] {
        K::WORDS
    }

    fn set_word(&mut self, index: usize, span: Span) -> bool {
        self.set(K::VALUES[index], span)
    }

    fn default_word(&self) -> Option<&'static str> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Linger {
        Off,
        On,
        Always,
    }
    keywords!(Linger { "off" => Off, "on" => On, "always" => Always });

    #[test]
    fn a_field_takes_one_value_in_a_block() {
        let mut bare = Inherit::default();
        assert_eq!(bare.default_value(), None);
        assert!(Field::set(&mut bare, 1, Span::default()) && !Field::set(&mut bare, 2, Span::default()));
        assert_eq!(bare.as_ref(), Some(&1));

        let mut setting = Setting::new(7);
        assert_eq!(setting.default_value(), Some(&7));
        assert!(
            Field::set(&mut setting, 1, Span::default()) && !Field::set(&mut setting, 2, Span::default())
        );
        assert_eq!((setting.get(), setting.default_value()), (1, None), "a value that is set is no default");
    }

    #[test]
    fn words_stand_for_the_values_of_their_enum() {
        let mut linger = Setting::new(Linger::On);
        assert_eq!(KeywordField::words(&linger), ["off", "on", "always"]);
        assert_eq!(linger.default_word(), Some("on"));
        assert!(linger.set_word(2, Span::default()) && !linger.set_word(0, Span::default()));
        assert_eq!((linger.get(), linger.default_word()), (Linger::Always, None));
        let mut bare: Inherit<Linger> = Inherit::default();
        assert!(bare.set_word(0, Span::default()) && bare.as_ref() == Some(&Linger::Off));
        for (word, value) in Linger::WORDS.iter().zip(Linger::VALUES) {
            assert_eq!(value.word(), *word);
        }
    }
}
