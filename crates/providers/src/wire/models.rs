//! Lists of models, as `GET /v1/models` answers them.

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Dialect;

/// A model for a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedModel {
    /// The name by which it is asked for.
    pub id: String,
    /// A name for people.
    pub display_name: String,
    /// Who offers it.
    pub owner: String,
    /// Since when.
    pub created: Timestamp,
}

fn entry(dialect: Dialect, model: &ListedModel) -> Value {
    match dialect {
        Dialect::OpenAi => json!({
            "id": model.id,
            "object": "model",
            "created": model.created.as_second(),
            "owned_by": model.owner,
        }),
        Dialect::Anthropic => json!({
            "type": "model",
            "id": model.id,
            "display_name": model.display_name,
            "created_at": model.created.to_string(),
        }),
    }
}

/// The body for one model.
#[must_use]
pub fn model_body(dialect: Dialect, model: &ListedModel) -> Bytes {
    entry(dialect, model).to_string().into()
}

/// The body for a list: one page that holds all of them.
#[must_use]
pub fn models_body(dialect: Dialect, models: &[ListedModel]) -> Bytes {
    let data: Value = models.iter().map(|model| entry(dialect, model)).collect();
    let list = match dialect {
        Dialect::OpenAi => json!({"object": "list", "data": data}),
        Dialect::Anthropic => json!({
            "data": data,
            "has_more": false,
            "first_id": models.first().map(|model| &model.id),
            "last_id": models.last().map(|model| &model.id),
        }),
    };
    list.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_the_fields_that_each_dialects_sdk_reads() {
        let model = ListedModel {
            id: "fast".into(),
            display_name: "Fast".into(),
            owner: "steadfast".into(),
            created: Timestamp::from_second(86_400).unwrap(),
        };
        let read = |bytes: Bytes| serde_json::from_slice::<Value>(&bytes).unwrap();
        let openai = read(models_body(Dialect::OpenAi, std::slice::from_ref(&model)));
        let expected =
            json!({"id": "fast", "object": "model", "created": 86400, "owned_by": "steadfast"});
        assert_eq!(openai, json!({"object": "list", "data": [expected]}));
        let anthropic = read(models_body(Dialect::Anthropic, &[model.clone(), model.clone()]));
        assert_eq!(anthropic["data"][1], read(model_body(Dialect::Anthropic, &model)));
        assert_eq!(anthropic["data"][0]["created_at"], "1970-01-02T00:00:00Z");
        assert_eq!(
            (&anthropic["has_more"], &anthropic["last_id"]),
            (&json!(false), &json!("fast"))
        );
        let none = read(models_body(Dialect::Anthropic, &[]));
        assert_eq!((&none["data"], &none["first_id"]), (&json!([]), &Value::Null));
    }
}
