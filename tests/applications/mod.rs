//! Applications that do not speak HTTP, and caches: FastCGI, uwsgi, SCGI, memcached, and the programs that are written
//! for them.

mod fastcgi;
mod fastcgi_hostile;
mod memcached;
mod php;
mod scgi;
mod sites;
mod uwsgi;
