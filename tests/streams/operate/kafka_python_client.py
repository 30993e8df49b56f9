"""kafka-python in a process of its own: its warnings are not ours. Reads (brokers, topic, way, records) from stdin."""

import pickle
import sys
from typing import Any

from kafka import KafkaProducer


def main(brokers: str, topic: str, way: dict[str, Any], records: list[tuple[Any, ...]], limit: int) -> None:
    producer = KafkaProducer(
        bootstrap_servers=brokers,
        acks={-1: "all"}.get(way["acks"], way["acks"]),
        compression_type=None if way["codec"] == "none" else way["codec"],
        enable_idempotence=way["idempotent"],
        linger_ms=20,
        max_request_size=limit,
        transactional_id=way["transaction"] or None,
    )
    if way["transaction"]:
        producer.init_transactions()
        producer.begin_transaction()
    futures = [
        producer.send(topic, value, key, headers=list(headers), timestamp_ms=timestamp_ms)
        for value, key, headers, timestamp_ms in records
    ]
    producer.flush(30)
    for future in futures:
        future.get(30)
    if way["transaction"]:
        (producer.commit_transaction if way["commits"] else producer.abort_transaction)()
    producer.close(30)


if __name__ == "__main__":
    main(*pickle.load(sys.stdin.buffer))
