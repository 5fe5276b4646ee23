//! Entries that a caller has as JSON.

use super::super::raw::EntryPut;
use super::{
    Credential, Edits, Form, NoHomeAccount, Shape, TokenScheme, entry, is_plain_app_token, stored_key,
};

impl Edits<'_> {
    pub(super) fn put_entries(&mut self) {
        let change = self.change;
        for put in &change.entry_puts {
            let credential = put.credential.not_ahead_of(change.now);
            let matching = self.index.matching(&change.keys_of(&credential));
            match &credential {
                Credential::AppMetadata(app)
                    if put.key == stored_key(&credential, Form::Python, &app.environment) =>
                {
                    self.put_app_metadata(app, &credential, &matching);
                }
                _ if matching.is_empty() => self.add_entry(put, &credential),
                _ => matching.iter().for_each(|at| self.replace_by(*at, put, &credential)),
            }
            if let Some(token) = self.twin_of(&credential, &matching) {
                if !matching.is_empty() && !self.python_finds(token, &matching) {
                    self.add_entry(put, &credential);
                }
                self.note_for_node(token);
            }
        }
    }

    fn add_entry(&mut self, put: &EntryPut, credential: &Credential) {
        let shape = self.shape_of(put, credential);
        let value = entry::write(credential, &shape);
        let standing = self.index.named(credential.credential_type(), &put.key);
        let gives_way =
            |at: &usize| is_bound(credential) && self.index.credential(*at).is_ok_and(|old| is_bound(&old));
        match standing.filter(gives_way) {
            Some(at) => drop(self.changed.insert(at, Some(value))),
            None => self.add_under(put.key.clone(), credential, value),
        }
    }

    /// Under the caller's own key it is the caller's entry, with fields of others where it has none itself.
    fn replace_by(&mut self, at: usize, put: &EntryPut, credential: &Credential) {
        if self.index.key(at) != put.key {
            return self.replace(at, credential);
        }
        let mut shape = self.shape_of(put, credential);
        let own: Vec<_> = shape.unknown.iter().map(|(name, _)| entry::name_of(name.get())).collect();
        let mut others = entry::unknown_fields(self.index.value(at));
        others.retain(|(name, _)| !own.contains(&entry::name_of(name.get())));
        shape.unknown.extend(others);
        self.changed.insert(at, Some(entry::write(credential, &shape)));
    }
}

impl Edits<'_> {
    fn shape_of<'s>(&self, put: &'s EntryPut, credential: &'s Credential) -> Shape<'s> {
        let mut shape = Shape::of(put.json.expose(), credential);
        if is_bound(credential) {
            // Python takes every app token with `null` for a bearer token.
            shape.no_home_account = NoHomeAccount::Absent;
        } else if is_plain_app_token(credential)
            && self.change.dialect.is_some_and(|dialect| dialect.has_twins())
        {
            // Node's twin is another entry.
            shape.no_home_account = NoHomeAccount::Null;
        }
        shape
    }
}

fn is_bound(credential: &Credential) -> bool {
    matches!(credential, Credential::AccessToken(token) if token.scheme != TokenScheme::Bearer)
}
