package datadir

import (
	"slices"
	"time"

	"relay/cluster/internal/wire"
	"relay/cluster/pki"
	pb "relay/cluster/spool/spoolpb"
)

// CertName is what the cluster is called in certificates.
func (id *Identity) CertName() string {
	if id.Generation != "" {
		return id.Generation
	}
	return id.Cluster
}

// succeed makes the identity that a node has after a recovery: of the next
// generation, with a certificate of its own making, as the CA's key is in every
// store. The same peers again, with nothing changed since, are the same
// generation. Before cluster version 2 there are no generations.
func (id *Identity) succeed(record *pb.Cluster, o RecoverOptions, before []Peer) error {
	id.Peers = map[string]string{}
	for _, p := range o.Peers {
		id.Peers[p.ID] = p.Address
		if p.ID == id.Node {
			id.Advertise = p.Address
		}
	}
	if record.GetVersion() < 2 {
		return nil
	}
	want := peerTexts(o.Peers)
	_, n := wire.GenerationOf(id.CertName())
	n = max(n, record.Generation)
	if !slices.Equal(id.Recovered, want) || !slices.Equal(peerTexts(before), want) {
		n++
	}
	pair := pki.Signing(record)
	ca, err := pki.OpenAuthority(pair.Cert, pair.Key)
	if err != nil {
		return err
	}
	key, der, err := pki.NewRequest(id.Node)
	if err != nil {
		return err
	}
	csr, err := pki.ParseRequest(der)
	if err != nil {
		return err
	}
	id.Generation, id.Recovered = wire.Generation(id.Cluster, n, want), want
	// The node that leads renews it, as no certificate of a member lives so long.
	cert, err := ca.Sign(csr, pki.Subject{Cluster: id.Generation, Node: id.Node, Now: time.Now(), Life: pki.LongLife})
	if err != nil {
		return err
	}
	id.Change(pki.Credential{
		CA: string(record.CaCert), Next: string(record.NextCert), Cross: string(record.CrossCert), Cert: string(cert),
		Key: string(key),
	})
	id.castOut(before)
	return nil
}

// castOut remembers the members that are none any more.
func (id *Identity) castOut(before []Peer) {
	if id.Outcasts == nil {
		id.Outcasts = map[string]string{}
	}
	for _, p := range before {
		id.Outcasts[p.ID] = p.Address
	}
	for node := range id.Peers {
		delete(id.Outcasts, node)
	}
}

// peerTexts are peers as text, in order.
func peerTexts(peers []Peer) []string {
	all := make([]string, 0, len(peers))
	for _, p := range peers {
		all = append(all, p.ID+"="+p.Address)
	}
	slices.Sort(all)
	return all
}
