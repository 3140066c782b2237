//! Code in the documents, so that it can be run.

use super::repository;

/// A fenced block of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The document, relative to the repository.
    pub document: String,
    /// The line of the fence, from 1 on.
    pub line: usize,
    /// What stands behind the fence: `sh`, `sh cluster`, `python`.
    pub kind: String,
    /// The lines between the fences.
    pub code: String,
}

/// The pages that users read.
pub fn documents() -> Vec<String> {
    let mut documents = vec!["README.md".to_string()];
    for entry in std::fs::read_dir(repository().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            documents.push(format!("docs/{name}"));
        }
    }
    documents.sort();
    documents
}

/// The text of a document.
pub fn text(document: &str) -> String {
    std::fs::read_to_string(repository().join(document)).unwrap()
}

/// The fenced blocks of a document in their order.
pub fn blocks(document: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in text(document).lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(kind)) => {
                open = Some(Block {
                    document: document.to_string(),
                    line: number + 1,
                    kind: kind.trim().to_string(),
                    code: String::new(),
                });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => {
                block.code.push_str(line);
                block.code.push('\n');
            }
            (None, None) => {}
        }
    }
    assert_eq!(open, None, "a fence is not closed");
    blocks
}
