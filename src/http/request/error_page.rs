//! The page that takes the place of an answer, as far as the request knows of it.
//!
//! Values; which page it is, `http/response/error_page.rs` decides.
//! Behaviour: nginx.org, ngx_http_core_module (`error_page`, `recursive_error_pages`).

use crate::http::request::Request;
use crate::http::response::headers::Headers;
use crate::proto::header::Id;

/// What a request knows of the page that is made instead of its answer.
#[derive(Debug, Default)]
pub struct ErrorPage {
    /// The status that the page is made for, and goes out with.
    pub status: Option<u16>,
    /// An `error_page` is being served; its own failures have no page.
    pub is_last: bool,
    /// The next response stands for one that could not be changed as a whole, and goes out as it is.
    pub is_plain: bool,
    /// Fields of the answer that the page stands for; they go out with it.
    kept: Option<Box<Headers>>,
}

impl Request {
    /// Drops a field that [`Request::keep`] has kept.
    pub fn forget(&mut self, id: Id) {
        if let Some(kept) = &mut self.error_page.kept {
            kept.remove(id);
        }
    }

    /// Keeps a field for the page that is shown instead of its response.
    pub fn keep(&mut self, id: Id, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.error_page.kept.get_or_insert_default().push_id(id, value);
        }
    }

    /// Keeps any field, of a response that leads to another one.
    pub fn keep_named(&mut self, name: &[u8], value: &[u8]) {
        self.error_page.kept.get_or_insert_default().push(name, value);
    }

    /// Drops a kept content type: the response has its own.
    pub fn forget_kept_type(&mut self) {
        if let Some(kept) = &mut self.error_page.kept {
            kept.remove_name(b"content-type");
        }
    }

    /// Adds the kept fields to the response, except those that it has itself. A kept type replaces the one
    /// derived from a file's name.
    pub fn restore_kept(&mut self) {
        let Some(kept) = self.error_page.kept.take() else { return };
        let headers = &mut self.response.headers;
        if kept.get(Id::ContentType).is_some() {
            headers.remove_name(b"content-type");
        }
        let has = |name: &[u8]| headers.iter().any(|(_, known, _)| known.eq_ignore_ascii_case(name));
        let fields: Vec<_> = kept.iter().filter(|(_, name, _)| !has(name)).collect();
        for (id, name, value) in &fields {
            headers.push_with(*id, name, value);
        }
        headers.put_last_first(fields.len());
        if kept.get(Id::Location).is_some() {
            self.response.first = Some(Id::Location);
        }
    }
}
