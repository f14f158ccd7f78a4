"""gRPC's own library on both sides of the daemon: calls of all kinds, in the clear and over TLS.

Deadlines, cancellation, metadata, compression, messages of 20 MiB, keep-alive pings and many calls at once. `.ci/run`
does not run it, since Debian's version of the library is old. It leaves nothing behind.

usage: python3 -m venv VENV && VENV/bin/pip install grpcio && VENV/bin/python tests/grpc/grpcio.py PATH/TO/pronghorn
"""
import collections
import concurrent.futures
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

import grpc

FOLDER = pathlib.Path(tempfile.mkdtemp(prefix='pronghorn-grpc-'))
OPTIONS = [
    ('grpc.max_receive_message_length', -1),
    ('grpc.max_send_message_length', -1),
    ('grpc.http2.min_ping_interval_without_data_ms', 100),
    ('grpc.http2.max_ping_strikes', 0),
]
PINGS = [
    ('grpc.keepalive_time_ms', 200),
    ('grpc.keepalive_timeout_ms', 1000),
    ('grpc.keepalive_permit_without_calls', 1),
    ('grpc.http2.max_pings_without_data', 0),
]
CONF = """user root;
daemon off;
worker_processes 1;
pid FOLDER/pid;
error_log FOLDER/error.log info;
events { }
http {
    access_log off;
    http2 on;
    client_max_body_size 0;
    upstream clear { server 127.0.0.1:SERVER; keepalive 4; }
    upstream secure { server 127.0.0.1:TLS_SERVER; keepalive 4; }
    server {
        listen 127.0.0.1:CLEAR;
        location / { grpc_pass grpc://clear; }
    }
    server {
        listen 127.0.0.1:SECURE ssl;
        server_name localhost;
        ssl_certificate FOLDER/cert.pem;
        ssl_certificate_key FOLDER/key.pem;
        location / {
            grpc_pass grpcs://secure;
            grpc_ssl_verify on;
            grpc_ssl_trusted_certificate FOLDER/cert.pem;
            grpc_ssl_name localhost;
            grpc_ssl_server_name on;
        }
    }
}
"""


class Service(grpc.GenericRpcHandler):
    """Methods on bytes; messages are not encoded."""

    def __init__(self):
        self.has_ended = threading.Event()
        self.time_left = None

    def service(self, details):
        metadata = dict(details.invocation_metadata)
        name = details.method.removeprefix('/svc/')

        def unary(request, context):
            context.send_initial_metadata((('x-initial', metadata.get('x-own', '')),))
            context.set_trailing_metadata((('x-trailer', 'last'), ('x-raw-bin', b'\x00\xff')))
            if 'x-compress' in metadata:
                context.set_compression(grpc.Compression.Gzip)
            return request

        def slow(request, context):
            self.time_left = context.time_remaining()
            context.add_callback(self.has_ended.set)
            self.has_ended.wait(20)
            return request

        def fails(_, context):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, 'no: "100%" ü')

        def stream(request, _):
            return (request + str(number).encode() for number in range(100))

        def endless(request, context):
            context.add_callback(self.has_ended.set)
            while context.is_active():
                yield request
                time.sleep(0.01)  # the rate of its messages

        def collect(requests, _):
            return str(sum(map(len, requests))).encode()

        def chat(requests, _):
            return (b'echo ' + request for request in requests)

        kinds = {
            grpc.unary_unary_rpc_method_handler: {'Unary': unary, 'Slow': slow, 'Fails': fails},
            grpc.unary_stream_rpc_method_handler: {'Stream': stream, 'Endless': endless},
            grpc.stream_unary_rpc_method_handler: {'Collect': collect},
            grpc.stream_stream_rpc_method_handler: {'Chat': chat},
        }
        return next((kind(methods[name]) for kind, methods in kinds.items() if name in methods), None)


failures = []


def expect(is_so, what):
    print(('ok      ' if is_so else 'FAILED  ') + what)
    if not is_so:
        failures.append(what)


def fails_with(call, code, details=None):
    try:
        call()
    except grpc.RpcError as error:
        return error.code() == code and details in (None, error.details())
    return False


def calls(name, connect, service):
    """Makes all calls over channels that `connect` opens."""
    channel = connect()

    def unary(method, channel=channel):
        return channel.unary_unary(f'/svc/{method}')

    echo = unary('Unary')
    answer, call = echo.with_call(b'hello', metadata=(('x-own', 'mine'), ('x-own-bin', b'\x00\xff')), timeout=20)
    initial, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
    expect(answer == b'hello' and echo(b'', timeout=20) == b'', f'{name}: unary calls')
    expect(initial.get('x-initial') == 'mine', f'{name}: initial metadata')
    is_whole = trailing.get('x-trailer') == 'last' and trailing.get('x-raw-bin') == b'\x00\xff'
    expect(is_whole, f'{name}: trailing metadata')
    many = [(f'x-{number}', 'v' * 80) for number in range(60)]
    expect(echo(b'x', metadata=many, timeout=20) == b'x', f'{name}: 60 fields')
    messages = list(channel.unary_stream('/svc/Stream')(b'm', timeout=20))
    expect(len(messages) == 100 and messages[99] == b'm99', f'{name}: a stream of the server')
    total = channel.stream_unary('/svc/Collect')((b'x' * 1000 for _ in range(500)), timeout=20)
    expect(total == b'500000', f'{name}: a stream of the client')
    words = [str(number).encode() for number in range(200)]
    messages = list(channel.stream_stream('/svc/Chat')(iter(words), timeout=20))
    expect(messages == [b'echo ' + word for word in words], f'{name}: both at once')
    failed = fails_with(lambda: unary('Fails')(b'', timeout=20), grpc.StatusCode.FAILED_PRECONDITION, 'no: "100%" ü')
    expect(failed, f'{name}: a status with its message')
    expect(fails_with(lambda: unary('None')(b'', timeout=20), grpc.StatusCode.UNIMPLEMENTED), f'{name}: no such method')

    service.has_ended.clear()
    late = fails_with(lambda: unary('Slow')(b'', timeout=0.5), grpc.StatusCode.DEADLINE_EXCEEDED)
    expect(late and service.time_left < 0.6, f'{name}: the deadline, which the server knows')
    expect(service.has_ended.wait(10), f'{name}: the call ends at the server too')
    service.has_ended.clear()
    call = channel.unary_stream('/svc/Endless')(b'x')
    next(call)
    call.cancel()
    expect(service.has_ended.wait(10), f'{name}: cancellation reaches the server')

    large = os.urandom(1 << 20) * 20
    expect(echo(large, timeout=60) == large, f'{name}: a message of 20 MiB')
    for coding in grpc.Compression.Gzip, grpc.Compression.Deflate:
        with connect(compression=coding) as other:
            answer = unary('Unary', other)(b'a' * 100_000, metadata=(('x-compress', 'yes'),), timeout=20)
            expect(answer == b'a' * 100_000, f'{name}: {coding.name}')
    with connect(PINGS) as other:
        states = collections.Counter()
        other.subscribe(lambda state: states.update([state]))
        begin, call = time.monotonic(), other.unary_stream('/svc/Endless')(b'x')
        for _ in call:
            if time.monotonic() - begin > 2:
                break
        call.cancel()
        time.sleep(3)  # fifteen pings without a call
        answered = unary('Unary', other)(b'x', timeout=20) == b'x'
        expect(answered and not states[grpc.ChannelConnectivity.TRANSIENT_FAILURE], f'{name}: keep-alive pings')
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = pool.map(lambda number: echo(str(number).encode(), timeout=60), range(2000))
        expect(list(answers) == [str(number).encode() for number in range(2000)], f'{name}: 2000 calls, 32 at a time')
    chats = [channel.stream_stream('/svc/Chat')(iter([b'x'] * 50), timeout=60) for _ in range(20)]
    expect(all(len(list(chat)) == 50 for chat in chats), f'{name}: 20 chats at once')
    channel.close()


def main(binary):
    subprocess.run(['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=localhost',
                    '-addext', 'subjectAltName=DNS:localhost', '-keyout', FOLDER / 'key.pem',
                    '-out', FOLDER / 'cert.pem'], check=True, stderr=subprocess.DEVNULL)
    key, certificate = ((FOLDER / name).read_bytes() for name in ('key.pem', 'cert.pem'))
    service = Service()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(48), options=OPTIONS)
    server.add_generic_rpc_handlers((service,))
    ports = {'SERVER': server.add_insecure_port('127.0.0.1:0')}
    ports['TLS_SERVER'] = server.add_secure_port(
        '127.0.0.1:0', grpc.ssl_server_credentials([(key, certificate)]))
    server.start()
    for name in 'CLEAR', 'SECURE':
        with socket.socket() as probe:
            probe.bind(('127.0.0.1', 0))
            ports[name] = probe.getsockname()[1]
    conf = CONF.replace('FOLDER', str(FOLDER))
    for name in 'TLS_SERVER', 'SERVER', 'CLEAR', 'SECURE':
        conf = conf.replace(f':{name}', f':{ports[name]}')
    (FOLDER / 'grpc.conf').write_text(conf)
    daemon = subprocess.Popen([binary, '-p', FOLDER, '-c', FOLDER / 'grpc.conf', '-e', FOLDER / 'error.log'])

    def clear(more=(), compression=None):
        return grpc.insecure_channel(f'127.0.0.1:{ports["CLEAR"]}', OPTIONS + list(more), compression)

    def secure(more=(), compression=None):
        options = OPTIONS + [('grpc.ssl_target_name_override', 'localhost')] + list(more)
        credentials = grpc.ssl_channel_credentials(certificate)
        return grpc.secure_channel(f'127.0.0.1:{ports["SECURE"]}', credentials, options, compression)

    try:
        with clear() as channel:
            grpc.channel_ready_future(channel).result(30)
        calls('clear', clear, service)
        calls('TLS', secure, service)
    finally:
        daemon.terminate()
        daemon.wait()
        server.stop(0)
    log = (FOLDER / 'error.log').read_text().splitlines()
    levels = ('[error]', '[crit]', '[alert]')
    expect(not [line for line in log if any(level in line for level in levels)], 'a clean log')
    shutil.rmtree(FOLDER)
    sys.exit(f'{len(failures)} failures' if failures else 0)


if __name__ == '__main__':
    main(sys.argv[1])
