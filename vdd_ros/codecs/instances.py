"""Empty messages for encoders, of classes without defaults.

Live, rclpy's classes make themselves. A bag reader's classes are plain dataclasses that want every
field: with the schemas at hand they are filled here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vdd_ros.codecs.schemas import SCHEMAS, array_of
from vdd_ros.core.errors import VddError, did_you_mean

_DTYPES = {"double": np.float64, "float": np.float32, "int32": np.int32}


class DataclassMessages:
    """Makes empty messages of dataclasses, arrays as numpy arrays.

    ``DataclassMessages(typestore.types).empty`` is what `encoders.Empty` asks for.
    """

    def __init__(self, classes: Mapping[str, Any]) -> None:
        """Take the classes by message type, for example ``std_msgs/msg/Header``."""
        self._classes = classes

    def empty(self, type_name: str) -> Any:  # noqa: ANN401
        """Return a message with every number at its default and every sequence empty.

        Raises:
            VddError: a type without a schema or without a class.
        """
        if type_name not in SCHEMAS or type_name not in self._classes:
            raise VddError(f"no message type '{type_name}'{did_you_mean(type_name, SCHEMAS)}")
        values = {name: self._value(kind) for name, kind in SCHEMAS[type_name].items()}
        if type_name == "geometry_msgs/msg/Quaternion":
            values["w"] = 1.0  # the one default that is not 0: no rotation
        return self._classes[type_name](**values)

    def _value(self, kind: str) -> Any:  # noqa: ANN401
        array = array_of(kind)
        if array is not None:
            element, size = array
            dtype = _DTYPES.get(element)
            return [] if dtype is None else np.zeros(size or 0, dtype)
        if kind in SCHEMAS:
            return self.empty(kind)
        return {"string": "", "boolean": False, "float": 0.0, "double": 0.0}.get(kind, 0)
