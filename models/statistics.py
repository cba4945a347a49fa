"""Statistics over states and history, by aggregation in MongoDB."""

from datetime import datetime, timedelta
from typing import Any

from app.contracts.state import TERMINAL_STATUSES
from app.contracts.statistics import FlowStatistics, PerformanceMetrics, StepCount
from models.database import Collection, Database, store_errors
from models.indexed import not_expired, pipeline

MAX_POPULAR_STEPS = 20
RECENT = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


class MongoStatistics:
    """The StatisticsSource port on MongoDB."""

    def __init__(self, database: Database) -> None:
        self._states: Collection = database.collection("flow_states")
        self._history: Collection = database.collection("flow_history")
        self._corruptions: Collection = database.collection("flow_corruptions")

    async def statistics(self, now: datetime) -> FlowStatistics:
        """Return the statistics at ``now``."""
        async with store_errors():
            states = await self._of_states(now)
            attempts = await self._of_attempts()
            steps = await self._popular_steps()
            corrupted = await self._corruptions.count_documents({})
            metrics = await self._metrics(now)
        total = states.get("total", 0)
        completed = states.get("completed", 0)
        made = attempts.get("total", 0)
        return FlowStatistics(
            total_flows=total,
            active_users=states.get("users", 0),
            completion_rate=100 * completed / total if total else 0.0,
            average_flow_duration=float(states.get("duration") or 0.0),
            popular_steps=steps,
            corrupted_states=corrupted,
            error_rate=attempts.get("failed", 0) / made if made else 0.0,
            performance_metrics=metrics,
        )

    async def _of_states(self, now: datetime) -> dict[str, Any]:
        completed = {"$eq": ["$status", "completed"]}
        # Not all servers can subtract dates.
        duration = {"$subtract": [{"$toLong": "$updatedAt"}, {"$toLong": "$createdAt"}]}
        found = await self._states.aggregate(
            [
                {"$match": {"status": {"$nin": sorted(TERMINAL_STATUSES)}, **not_expired(now)}},
                {
                    "$group": {
                        "_id": "$userId",
                        "total": {"$sum": 1},
                        "completed": {"$sum": {"$cond": [completed, 1, 0]}},
                        "duration": {"$sum": {"$cond": [completed, duration, 0]}},
                    }
                },
                {
                    "$group": {
                        "_id": None,
                        "total": {"$sum": "$total"},
                        "completed": {"$sum": "$completed"},
                        "duration": {"$sum": "$duration"},
                        "users": {"$sum": {"$cond": [{"$gt": ["$total", "$completed"]}, 1, 0]}},
                    }
                },
            ]
        ).to_list(1)
        if not found:
            return {}
        whole = found[0]
        return {**whole, "duration": whole["duration"] / (whole["completed"] or 1)}

    async def _of_attempts(self) -> dict[str, Any]:
        """Count the commands of callers; expirations, which the service makes itself, are no attempts."""
        found = await self._history.aggregate(
            [
                {"$match": {"kind": {"$ne": "expired"}}},
                {
                    "$group": {
                        "_id": None,
                        "total": {"$sum": 1},
                        "failed": {"$sum": {"$cond": ["$success", 0, 1]}},
                    }
                },
            ]
        ).to_list(1)
        return found[0] if found else {}

    async def _popular_steps(self) -> list[StepCount]:
        entered = {"success": True, "kind": {"$in": ["started", "transitioned", "reset", "set"]}}
        found = await self._history.aggregate(
            [
                {"$match": entered},
                {"$group": {"_id": {"flow": "$flowId", "step": "$toStep"}, "count": {"$sum": 1}}},
                {"$sort": {"count": -1, "_id.flow": 1, "_id.step": 1}},
                {"$limit": MAX_POPULAR_STEPS},
            ]
        ).to_list(MAX_POPULAR_STEPS)
        return [
            StepCount(flow=row["_id"]["flow"], step=row["_id"]["step"], count=row["count"]) for row in found
        ]

    async def _metrics(self, now: datetime) -> PerformanceMetrics:
        percentile = {"input": "$durationMs", "p": [0.95], "method": "approximate"}
        grouped = {"_id": None, "average": {"$avg": "$durationMs"}, "p95": {"$percentile": percentile}}
        timed = pipeline({"timestamp": {"$gte": now - RECENT}}, {"durationMs": {"$exists": True}})
        found = await self._history.aggregate([*timed, {"$group": grouped}]).to_list(1)
        last_minute = await self._history.count_documents({"timestamp": {"$gte": now - MINUTE}})
        return PerformanceMetrics(
            average_response_time=found[0]["average"] if found else 0.0,
            p95_response_time=found[0]["p95"][0] if found else 0.0,
            throughput_per_second=last_minute / MINUTE.total_seconds(),
        )
