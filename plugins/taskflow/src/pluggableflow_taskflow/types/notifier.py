# SPDX-License-Identifier: Apache-2.0
"""``taskflow.types.notifier``."""

from pluggableflow.notifier import LOG as LOG
from pluggableflow.notifier import Notifier as Notifier
from pluggableflow.notifier import RestrictedNotifier as RestrictedNotifier
