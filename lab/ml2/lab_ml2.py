"""A Neutron mechanism driver without an agent: binds every port as a plain tap device.

nova-compute then makes the tap itself, and the host's tapjoin puts it on the guests' bridge.
"""

from neutron_lib import constants
from neutron_lib.api.definitions import portbindings
from neutron_lib.plugins.ml2 import api


class LabTapDriver(api.MechanismDriver):
    def initialize(self):
        pass

    @property
    def connectivity(self):
        return portbindings.CONNECTIVITY_L2

    def bind_port(self, context):
        details = {portbindings.CAP_PORT_FILTER: False}
        for segment in context.segments_to_bind:
            if segment[api.NETWORK_TYPE] == constants.TYPE_FLAT:
                status = constants.PORT_STATUS_ACTIVE
                context.set_binding(segment[api.ID], portbindings.VIF_TYPE_TAP, details, status=status)
                return
