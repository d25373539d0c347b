//! Embeddings from the other side: the words of a text, hashed into a vector.
//!
//! Equal texts have equal vectors, texts that share words near ones, and others are close to a right
//! angle. It knows nothing of meaning: `yes` and `no` differ like any two words.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::reply::Head;
use super::script::{Reply, ReplyUsage};

/// How long a vector is unless the request says.
const DIMENSIONS: usize = 256;
const MAX_DIMENSIONS: u64 = 4096;
/// As many as OpenAI takes.
const MAX_INPUTS: usize = 2048;

/// What is to be embedded.
#[derive(Debug)]
pub(super) struct Inputs {
    texts: Vec<String>,
    dimensions: usize,
    base64: bool,
}

impl Inputs {
    pub(super) fn read(request: &Value) -> Result<Self, String> {
        let input = request.get("input").ok_or("input: it is missing")?;
        let texts = match input {
            Value::String(text) => vec![text.clone()],
            Value::Array(items) if items.iter().all(Value::is_u64) && !items.is_empty() => {
                vec![tokens(items)]
            }
            Value::Array(items) => items
                .iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text.clone()),
                    Value::Array(numbers) => Ok(tokens(numbers)),
                    _ => Err("input: each must be a text or a list of tokens"),
                })
                .collect::<Result<_, _>>()?,
            _ => return Err("input: it must be text or a list".to_owned()),
        };
        if texts.is_empty() || texts.len() > MAX_INPUTS {
            return Err(format!("input: from 1 to {MAX_INPUTS} are taken, not {}", texts.len()));
        }
        let dimensions = match request.get("dimensions").filter(|value| !value.is_null()) {
            None => DIMENSIONS,
            Some(value) => value
                .as_u64()
                .filter(|wanted| (1..=MAX_DIMENSIONS).contains(wanted))
                .and_then(|wanted| usize::try_from(wanted).ok())
                .ok_or_else(|| format!("dimensions: it must be from 1 to {MAX_DIMENSIONS}"))?,
        };
        let base64 = request.get("encoding_format").is_some_and(|format| format == "base64");
        Ok(Self { texts, dimensions, base64 })
    }

    /// An answer without words, for its usage: four bytes a token.
    pub(super) fn reply(&self) -> Reply {
        let bytes: usize = self.texts.iter().map(|text| text.len().max(1)).sum();
        let input = u64::try_from(bytes.div_ceil(4)).unwrap_or(u64::MAX);
        let usage = ReplyUsage { input, cached_input: 0, output: 0 };
        Reply { text: None, calls: Vec::new(), usage }
    }
}

/// Tokens are words like others.
fn tokens(numbers: &[Value]) -> String {
    numbers.iter().map(|number| format!("t{number}")).collect::<Vec<_>>().join(" ")
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo): the same on every machine and in every release.
fn hash(word: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    word.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The vector of a text, of length 1. Each word counts on one place, up or down.
fn vector(text: &str, dimensions: usize) -> Vec<f32> {
    let mut vector = vec![0.0_f32; dimensions];
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    for word in words {
        let hash = hash(word);
        let places = u64::try_from(dimensions).unwrap_or(1);
        let place = usize::try_from((hash >> 1) % places).unwrap_or(0);
        vector[place] += if hash & 1 == 0 { 1.0 } else { -1.0 };
    }
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value /= length);
    } else {
        // A text without words still has a direction.
        vector[0] = 1.0;
    }
    vector
}

/// The whole answer.
pub(super) fn plain(head: &Head, reply: &Reply, inputs: Option<&Inputs>) -> Value {
    let mut data = Vec::new();
    if let Some(Inputs { texts, dimensions, base64 }) = inputs {
        for (index, text) in texts.iter().enumerate() {
            let vector = vector(text, *dimensions);
            let embedding = if *base64 {
                let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                Value::from(STANDARD.encode(bytes))
            } else {
                Value::from(vector)
            };
            data.push(json!({"object": "embedding", "index": index, "embedding": embedding}));
        }
    }
    json!({
        "object": "list",
        "data": data,
        "model": head.model,
        "usage": {"prompt_tokens": reply.usage.input, "total_tokens": reply.usage.input},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &str, b: &str) -> f32 {
        let (a, b) = (vector(a, DIMENSIONS), vector(b, DIMENSIONS));
        a.iter().zip(&b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn texts_that_share_words_are_near_and_others_are_not() {
        assert!(cosine("How do I reset my password?", "how do i RESET my password") > 0.999);
        assert!(cosine("how do I reset my password", "how can I reset my password now") > 0.6);
        assert!(cosine("how do I reset my password", "list all open invoices").abs() < 0.3);
        assert!(cosine("", "...") > 0.999);
        assert_eq!(hash("a"), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn inputs_are_texts_or_tokens_and_what_is_neither_is_refused() {
        let read = |json: Value| Inputs::read(&json);
        assert_eq!(read(json!({"input": [1, 2]})).unwrap().texts, ["t1 t2"]);
        assert_eq!(read(json!({"input": ["a", [3]]})).unwrap().texts, ["a", "t3"]);
        assert_eq!(read(json!({"input": "a", "dimensions": 8})).unwrap().dimensions, 8);
        for (request, says) in [
            (json!({}), "missing"),
            (json!({"input": 5}), "text or a list"),
            (json!({"input": []}), "from 1"),
            (json!({"input": [true]}), "each"),
            (json!({"input": "a", "dimensions": 0}), "dimensions"),
        ] {
            let error = read(request).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
