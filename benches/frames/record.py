#!/usr/bin/env python3
"""Records sample.pcap: a guest's traffic of each kind, headers only.

    record.py TOWPATH OUTPUT        (as root; needs unshare, ip, ping and tcpdump)

Everything happens in a network namespace of its own, whose loopback has the addresses of "the
internet"; the guest is one of `towpath run` in it. 128 bytes of each frame are kept: all of its
headers, and all of a small packet.
"""

import os
import socket
import subprocess
import sys
import time

HOST4, HOST6, PORT = "198.18.0.1", "2001:db8::1", 7000
MB = 1_000_000
# What a connection asks for: bytes that the client sends, bytes that the server sends.
SHORT, UP, DOWN = (100, 1000), (6 * MB, 1), (1, 6 * MB)


def host(towpath, output):
    for command in (
        "ip link set lo up",
        f"ip addr add {HOST4}/32 dev lo",
        f"ip addr add {HOST6}/128 dev lo",
        "sysctl -qw net.ipv4.ping_group_range=0\\ 2147483647",
    ):
        subprocess.run(command, shell=True, check=True)
    server = os.fork()
    if server == 0:
        serve()
    time.sleep(0.5)
    try:
        subprocess.run([towpath, "run", "--", sys.executable, __file__, "--guest", output], check=True)
    finally:
        os.kill(server, 9)


def serve():
    for family, address in ((socket.AF_INET, HOST4), (socket.AF_INET6, HOST6)):
        if os.fork() == 0:
            # Ends with its parent: the namespace's only other process that is waited for.
            datagrams = socket.socket(family, socket.SOCK_DGRAM)
            datagrams.bind((address, PORT))
            while True:
                data, sender = datagrams.recvfrom(2000)
                if len(data) < 1000:
                    datagrams.sendto(data, sender)
        if os.fork() == 0:
            listener = socket.create_server((address, PORT), family=family, backlog=64)
            while True:
                answer(listener.accept()[0])
    while True:
        time.sleep(1)


def answer(connection):
    with connection:
        up, down = (int(n) for n in receive(connection, 20).split())
        receive(connection, up)
        connection.sendall(bytes(down))
        connection.recv(1)


def ask(address, up, down):
    with socket.create_connection((address, PORT)) as connection:
        connection.sendall(f"{up:9d} {down:9d}\n".encode() + bytes(up))
        receive(connection, down)


def receive(connection, length):
    data = bytearray()
    while len(data) < length:
        data += connection.recv(min(1 << 20, length - len(data))) or sys.exit("cut short")
    return data


def guest(output):
    tcpdump = subprocess.Popen(
        ["tcpdump", "-i", "tap0", "-s", "128", "-B", "16384", "-Z", "root", "-U", "--immediate-mode",
         "--time-stamp-precision=nano", "-w", output],
        stderr=subprocess.PIPE)
    tcpdump.stderr.readline()
    time.sleep(1)
    for address in (HOST4, HOST6):
        subprocess.run(["ping", "-qc8", "-i0.01", address], stdout=subprocess.DEVNULL, check=True)
        for load in [SHORT] * 12 + [UP, DOWN] + [SHORT] * 4:
            ask(address, *load)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        datagrams = socket.socket(family, socket.SOCK_DGRAM)
        datagrams.connect((address, PORT))
        for _ in range(50):
            datagrams.send(bytes(64))
            datagrams.recv(2000)
        for _ in range(50):
            datagrams.send(bytes(1200))
        try:
            socket.create_connection((address, PORT + 1))
        except ConnectionRefusedError:
            pass
    time.sleep(0.5)
    tcpdump.terminate()
    tcpdump.wait()


if sys.argv[1] == "--guest":
    guest(sys.argv[2])
elif sys.argv[1] == "--host":
    host(sys.argv[2], sys.argv[3])
else:
    os.execvp("unshare", ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
                          sys.executable, __file__, "--host", *map(os.path.abspath, sys.argv[1:])])
