//! The label of an image, taken from its key.

use super::DatasetError;
use regex::Regex;
use std::fmt;
use std::str::FromStr;

/// Where labels come from.
#[derive(Debug, Clone)]
pub enum LabelRule {
    /// The name of the folder the image lies in.
    Parent,
    /// No labels.
    None,
    /// The first group of the expression, or the whole match where it has no group.
    Regex(Regex),
}

impl LabelRule {
    /// The label of the image with this key, if it has one.
    pub fn label(&self, key: &str) -> Option<String> {
        match self {
            LabelRule::Parent => {
                let (folders, _) = key.rsplit_once('/')?;
                let name = folders.rsplit('/').next()?;
                (!name.is_empty() && name != "." && name != "..").then(|| name.to_string())
            }
            LabelRule::None => None,
            LabelRule::Regex(expression) => {
                let found = expression.captures(key)?;
                let group = found.get(1).or_else(|| found.get(0))?;
                Some(group.as_str().to_string())
            }
        }
    }
}

impl FromStr for LabelRule {
    type Err = DatasetError;

    fn from_str(text: &str) -> Result<Self, DatasetError> {
        match text {
            "parent" => Ok(LabelRule::Parent),
            "none" => Ok(LabelRule::None),
            _ => match text.strip_prefix("regex:") {
                Some(expression) => {
                    Regex::new(expression)
                        .map(LabelRule::Regex)
                        .map_err(|source| DatasetError::LabelExpression {
                            expression: expression.to_string(),
                            source,
                        })
                }
                None => Err(DatasetError::LabelForm {
                    text: text.to_string(),
                }),
            },
        }
    }
}

impl fmt::Display for LabelRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LabelRule::Parent => f.write_str("parent"),
            LabelRule::None => f.write_str("none"),
            LabelRule::Regex(expression) => write!(f, "regex:{expression}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(rule: &str, key: &str) -> Option<String> {
        rule.parse::<LabelRule>().unwrap().label(key)
    }

    #[test]
    fn the_parent_folder_is_the_label() {
        assert_eq!(
            label("parent", "data/Apple Red/r0.jpg").as_deref(),
            Some("Apple Red")
        );
        assert_eq!(
            label("parent", "s3://b/p/kiwi/1.png").as_deref(),
            Some("kiwi")
        );
        assert_eq!(label("parent", "r0.jpg"), None);
        assert_eq!(label("parent", "./r0.jpg"), None);
        assert_eq!(label("parent", "/r0.jpg"), None);
    }

    #[test]
    fn an_expression_gives_its_first_group_or_the_whole_match() {
        assert_eq!(
            label("regex:([a-z]+)_[0-9]+", "x/pear_12.jpg").as_deref(),
            Some("pear")
        );
        assert_eq!(
            label("regex:pear|apple", "x/apple-1.jpg").as_deref(),
            Some("apple")
        );
        assert_eq!(label("regex:kiwi", "x/apple-1.jpg"), None);
        assert_eq!(label("none", "x/apple-1.jpg"), None);
    }

    #[test]
    fn malformed_rules_are_refused_by_name() {
        assert!(matches!(
            "folder".parse::<LabelRule>(),
            Err(DatasetError::LabelForm { .. })
        ));
        assert!(matches!(
            "regex:(".parse::<LabelRule>(),
            Err(DatasetError::LabelExpression { .. })
        ));
    }

    #[test]
    fn a_rule_prints_as_it_was_typed() {
        for text in ["parent", "none", "regex:([a-z]+)"] {
            assert_eq!(text.parse::<LabelRule>().unwrap().to_string(), text);
        }
    }
}
