#!/usr/bin/python3
"""Real applications behind the shipped examples, clicked through in a headless browser.

Starts the database, the applications and the proxy in a temporary folder, and runs click.js. Nothing outside that
folder is changed. See README.md for the packages that it needs.

usage: run.py [--binary PATH] [--keep] [wordpress] [phpmyadmin] [django] [page]
"""
import argparse
import base64
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

TREE = pathlib.Path(__file__).resolve().parents[3]
HERE = pathlib.Path(__file__).resolve().parent
# A picture of one pixel.
PIXEL = base64.b64decode(
    'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==')
OBJECTS = 200


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def wait(what, is_done, seconds=60):
    end = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > end:
            sys.exit(f'waited in vain for {what}')
        time.sleep(0.1)


def connects(path):
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
            return True
        except OSError:
            return False


class Site:
    """A temporary folder and the processes that belong to it."""

    def __init__(self, binary):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix='pronghorn-browser-'))
        self.folder.chmod(0o755)
        self.binary = binary
        self.processes = []

    def start(self, name, command, is_up):
        """Starts a program, and waits until it is up."""
        out = self.folder / f'{name}.out'
        with open(out, 'w') as log:
            process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)
        self.processes.append((name, process))

        def is_done():
            if process.poll() is not None:
                sys.exit(f'{name} has ended: {out.read_text()}')
            return is_up()
        wait(name, is_done)

    def proxy(self, name, text):
        """Starts the proxy with this configuration, beside the files that examples include."""
        folder = self.folder / name
        (folder / 'logs').mkdir(parents=True)
        for file in (TREE / 'conf').iterdir():
            if file.is_file():
                shutil.copy(file, folder)
        (folder / 'site.conf').write_text(f'user root;\ndaemon off;\npid {folder}/pid;\n' + text)
        pid = folder / 'pid'  # written when it listens
        self.start(name, [self.binary, '-p', folder, '-c', folder / 'site.conf', '-e', folder / 'logs/error.log'],
                   lambda: pid.exists() and pid.read_text())

    def stop(self):
        for _, process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def example(name, changes):
    text = (TREE / 'conf/examples' / name).read_text()
    for old, new in changes:
        if old not in text:
            sys.exit(f'{name} does not contain {old!r} any more')
        text = text.replace(old, str(new))
    return text


def database(site):
    """Starts a database server without a network; returns its socket."""
    folder, path = site.folder / 'mysql', site.folder / 'mysql.sock'
    if not folder.exists():
        subprocess.run(['mariadb-install-db', '--user=root', f'--datadir={folder}',
                        '--auth-root-authentication-method=normal'],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        site.start('mariadb', ['mariadbd', '--no-defaults', '--user=root', f'--datadir={folder}', f'--socket={path}',
                               '--skip-networking', f'--pid-file={site.folder}/mysql.pid'], lambda: connects(path))
    return path


def sql(path, text):
    subprocess.run(['mariadb', '--no-defaults', f'--socket={path}', '-uroot', '-e', text], check=True)


def php(site, database_socket):
    """Starts php-fpm; returns its socket."""
    folder, path = site.folder, site.folder / 'php.sock'
    if not path.exists():
        (folder / 'php.conf').write_text(f"""[global]
error_log = {folder}/php.log
daemonize = no
[www]
user = root
group = root
listen = {path}
pm = static
pm.max_children = 4
php_admin_value[upload_tmp_dir] = {folder}
php_admin_value[session.save_path] = {folder}
php_admin_value[mysqli.default_socket] = {database_socket}
""")
        fpm = min(pathlib.Path('/usr/sbin').glob('php-fpm*'))
        site.start('php', [fpm, '-R', '-F', '-y', folder / 'php.conf'], lambda: connects(path))
    return path


def wordpress(site):
    folder, port, server = site.folder, free_port(), database(site)
    sql(server, 'CREATE DATABASE blog')
    root = folder / 'wordpress'
    # Debian's package consists of links to other packages in part.
    subprocess.run(['cp', '-rL', '/usr/share/wordpress', root], check=True)
    (root / 'wp-content/uploads').mkdir(parents=True, exist_ok=True)
    (root / 'wp-config.php').write_text(f"""<?php
define('DB_NAME', 'blog');
define('DB_USER', 'root');
define('DB_PASSWORD', '');
define('DB_HOST', 'localhost:{server}');
define('WP_HTTP_BLOCK_EXTERNAL', true);
define('AUTOMATIC_UPDATER_DISABLED', true);
define('DISABLE_WP_CRON', true);
$table_prefix = 'wp_';
defined('ABSPATH') || define('ABSPATH', __DIR__ . '/');
require_once ABSPATH . 'wp-settings.php';
""")
    site.proxy('wordpress.site', example('wordpress.conf', [
        ('listen      80;', f'listen 127.0.0.1:{port};'),
        ('/run/php/php-fpm.sock', php(site, server)),
        ('/srv/wordpress', root),
    ]))
    return f'http://blog.example:{port}'


def phpmyadmin(site):
    port, server = free_port(), database(site)
    sql(server, "CREATE USER chief@localhost IDENTIFIED BY 'Correct-Horse-9'")
    sql(server, 'GRANT ALL ON *.* TO chief@localhost')
    site.proxy('phpmyadmin.site', example('phpmyadmin.conf', [
        ('listen      80;', f'listen 127.0.0.1:{port};'),
        ('/run/php/php-fpm.sock', php(site, server)),
    ]))
    return f'http://db.example:{port}'


def django(site):
    folder, port = site.folder, free_port()
    app, sock = folder / 'app', folder / 'app.sock'
    app.mkdir()
    python = '/usr/bin/python3'
    subprocess.run([python, '-m', 'django', 'startproject', 'app', app], check=True)
    subprocess.run([python, 'manage.py', 'startapp', 'files'], cwd=app, check=True)
    with open(app / 'app/settings.py', 'a') as settings:
        settings.write(f"""
ALLOWED_HOSTS = ['app.example']
DEBUG = False
INSTALLED_APPS += ['files']
STATIC_ROOT = '{app}/static'
MEDIA_ROOT = '{app}/media'
MEDIA_URL = '/media/'
DEFAULT_AUTO_FIELD = 'django.db.models.AutoField'
""")
    (app / 'files/models.py').write_text("""from django.db import models

class Document(models.Model):
    title = models.CharField(max_length=100)
    file = models.FileField(upload_to='documents')

    def __str__(self):
        return self.title
""")
    (app / 'files/admin.py').write_text('from django.contrib import admin\nfrom .models import Document\n'
                                        'admin.site.register(Document)\n')
    (app / 'app/urls.py').write_text("""from django.contrib import admin
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.urls import path

@login_required(login_url='/admin/login/')
def report(request):
    return HttpResponse(headers={'X-Accel-Redirect': '/protected/report.txt', 'Content-Type': 'text/plain'})

urlpatterns = [path('admin/', admin.site.urls), path('report/', report)]
""")
    for words in (['makemigrations', 'files'], ['migrate'], ['collectstatic', '--noinput']):
        subprocess.run([python, 'manage.py', *words], cwd=app, check=True, stdout=subprocess.DEVNULL)
    environment = {'DJANGO_SUPERUSER_PASSWORD': 'Correct-Horse-9', 'PATH': '/usr/bin:/bin'}
    subprocess.run([python, 'manage.py', 'createsuperuser', '--noinput', '--username', 'chief',
                    '--email', 'a@b.example'], cwd=app, check=True, env=environment, stdout=subprocess.DEVNULL)
    (app / 'protected').mkdir()
    (app / 'protected/report.txt').write_text('the report that only members see\n')
    site.start('uwsgi', ['uwsgi', '--plugin', 'python3', '--socket', sock, '--module', 'app.wsgi', '--chdir', app,
                         '--master', '--processes', '2', '--die-on-term'], lambda: connects(sock))
    site.proxy('django.site', example('django.conf', [
        ('listen      80;', f'listen 127.0.0.1:{port};'),
        ('/run/app/app.sock', sock),
        ('/srv/app', app),
    ]))
    return f'http://app.example:{port}'


def page(site):
    """A page of many objects over HTTP/2 and TLS."""
    folder, port = site.folder / 'page', free_port()
    folder.mkdir()
    subprocess.run(['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj',
                    '/CN=page.example', '-keyout', folder / 'key.pem', '-out', folder / 'cert.pem'],
                   check=True, stderr=subprocess.DEVNULL)
    (folder / 'pixel.png').write_bytes(PIXEL)
    images = ''.join(f'<img src="/pixel/{number}.png">' for number in range(OBJECTS))
    (folder / 'index.html').write_text(f'<!doctype html><title>page</title>{images}')
    site.proxy('page.site', f"""events {{ }}
http {{
    include mime.types;
    log_format streams '$connection $http2 $status $uri';
    access_log logs/access.log streams;
    server {{
        listen 127.0.0.1:{port} ssl;
        http2 on;
        ssl_certificate {folder}/cert.pem;
        ssl_certificate_key {folder}/key.pem;
        root {folder};
        location /pixel/ {{ rewrite ^ /pixel.png break; }}
    }}
}}
""")
    return f'https://page.example:{port}'


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--binary', default=TREE / 'target/release/pronghorn')
    parser.add_argument('--keep', action='store_true', help='leave the temporary folder, with logs and screenshots')
    parser.add_argument('sites', nargs='*', default=[])
    arguments = parser.parse_args()
    makers = {'wordpress': wordpress, 'phpmyadmin': phpmyadmin, 'django': django, 'page': page}
    chosen = arguments.sites or list(makers)
    site = Site(pathlib.Path(arguments.binary).resolve())
    print('folder', site.folder, flush=True)
    failed = True
    try:
        subprocess.run(['npm', 'install', '--silent', '--no-audit', '--no-fund', '--prefix', site.folder,
                        '--cache', site.folder / 'npm', 'playwright-core'], check=True, stdout=subprocess.DEVNULL)
        (site.folder / 'import.sql').write_text(
            'CREATE DATABASE zoo; USE zoo; CREATE TABLE antelopes (name VARCHAR(40));\n'
            + ''.join(f"INSERT INTO antelopes VALUES ('pronghorn {number}');\n" for number in range(2000)))
        (site.folder / 'upload.txt').write_text('an uploaded text\n' * 100_000)
        (site.folder / 'pixel.png').write_bytes(PIXEL)
        shutil.copy(HERE / 'click.js', site.folder)
        addresses = [f'{name}={makers[name](site)}' for name in chosen]
        failed = subprocess.run(['node', site.folder / 'click.js', site.folder, *addresses]).returncode != 0
        if 'page' in chosen:
            log = (site.folder / 'page.site/logs/access.log').read_text()
            lines = [line.split() for line in log.splitlines()]
            objects = [line for line in lines if line[3].startswith('/pixel')]
            print('page:', len(objects), 'objects over', len({line[0] for line in objects}), 'connections')
            failed |= len(objects) != OBJECTS or any(line[1:3] != ['h2', '200'] for line in objects)
        for log in sorted(site.folder.glob('*.site/logs/error.log')):
            for line in log.read_text().splitlines():
                is_expected = re.search('No such file|sent in stderr', line)
                if re.search(r'\[(emerg|alert|crit|error)\]', line) and not is_expected:
                    print(f'{log.parent.parent.name}: {line}')
                    failed = True
    finally:
        site.stop()
        if not arguments.keep:
            shutil.rmtree(site.folder, ignore_errors=True)
    print('failed' if failed else 'passed')
    sys.exit(failed)


if __name__ == '__main__':
    main()
