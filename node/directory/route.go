package directory

import (
	"strings"

	pb "relay/cluster/spool/spoolpb"
)

// RouteSecret says what the password of a route is for, as it is sealed: it opens for this account of this target
// alone, so that nobody sends it elsewhere who does not know it.
func RouteSecret(r *pb.Route) string {
	return strings.Join(append([]string{"password of a route", r.Domain, r.Target, r.User}, r.More...), "\x00")
}

// RouteKeySecret says the same of the key of a route's certificate.
func RouteKeySecret(r *pb.Route) string {
	return strings.Join(append([]string{"key of a route", r.Domain, r.Target, r.ClientCert}, r.More...), "\x00")
}
