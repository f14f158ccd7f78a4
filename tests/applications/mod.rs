//! Applications that do not speak HTTP: FastCGI, and programs that are written for it.

mod fastcgi;
mod fastcgi_hostile;
mod php;
