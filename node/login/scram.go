package login

import (
	"crypto/rand"
	"sync"
	"sync/atomic"
	"time"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/replica"
	"relay/smtp/sasl"
)

// Parameters of SCRAM-SHA-256 keys. RFC 7677 §4 wants 4096 iterations at least;
// clients pay for each login, and most of them are phones.
const (
	ScramIterations = 16384
	scramSalt       = 16
)

// NewScramKeys derives what SCRAM needs of a new password.
func NewScramKeys(secret string) (*pb.ScramKeys, error) {
	salt := make([]byte, scramSalt)
	if _, err := rand.Read(salt); err != nil {
		return nil, err
	}
	k, err := sasl.NewKeys(secret, salt, ScramIterations)
	if err != nil {
		return nil, err
	}
	return &pb.ScramKeys{
		Salt: k.Salt, Iterations: uint32(k.Iterations), StoredKey: k.StoredKey, ServerKey: k.ServerKey,
	}, nil
}

// saslKeys are the keys of an account in the words of package sasl.
func saslKeys(k *pb.ScramKeys) *sasl.Keys {
	return &sasl.Keys{Salt: k.Salt, Iterations: int(k.Iterations), StoredKey: k.StoredKey, ServerKey: k.ServerKey}
}

// ScramKeysOf finds what SCRAM is to check a user's proof by. A user who is unknown,
// disabled, or has no keys gets keys that no proof meets and that look the same each
// time, on every node: they are made of a secret of the cluster.
func ScramKeysOf(r replica.Replica, user string) (*sasl.Keys, error) {
	var keys *sasl.Keys
	err := r.View(func(v spool.View) error {
		address, err := loginName(v, user)
		if err != nil {
			address = directory.Canonical(user)
		}
		a, ok, err := v.Account(address)
		if err != nil {
			return err
		}
		if ok && !a.Disabled && a.Scram != nil {
			keys = saslKeys(a.Scram)
			return nil
		}
		c, _, err := v.Cluster()
		keys = sasl.DummyKeys(decoySecret(c), address, ScramIterations)
		return err
	})
	return keys, err
}

// loginName is the address of the account that a client names.
func loginName(v spool.View, user string) (string, error) {
	return directory.Qualify(v, directory.Canonical(sasl.Prepared(user)))
}

// SameAccount reports whether two names are of one account.
func SameAccount(r replica.Replica, one, other string) bool {
	same := false
	_ = r.View(func(v spool.View) error {
		a, errA := loginName(v, one)
		b, errB := loginName(v, other)
		same = errA == nil && errB == nil && a == b
		return nil
	})
	return same
}

// ScramUse knows whether all who can log in can do so by SCRAM. While somebody
// has no keys, it is not announced: clients pick it before all others, and do not
// try another one.
type ScramUse struct {
	replica replica.Replica
	stale   atomic.Bool // the directory has changed

	mu      sync.Mutex
	partial bool
	witness string        // an account without keys
	read    time.Time     // all accounts
	cost    time.Duration // of that
	known   bool
}

// NewScramUse begins without having read the accounts.
func NewScramUse(r replica.Replica) *ScramUse { return &ScramUse{replica: r} }

// Changed tells that the directory has changed. It does not block.
func (s *ScramUse) Changed() { s.stale.Store(true) }

// scramShare bounds how much time goes into reading all accounts while they change:
// one part in so many.
const scramShare = 20

// Hide implements ServerConfig.HideScram of both protocols.
func (s *ScramUse) Hide() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known && !s.stale.Load() {
		return s.partial
	}
	s.look()
	return s.partial
}

// look goes through the accounts, unless the one that had no keys still has none.
// The caller holds mu.
func (s *ScramUse) look() {
	s.stale.Store(false)
	err := s.replica.View(func(v spool.View) error {
		if s.witness != "" {
			if a, ok, err := v.Account(s.witness); err != nil || ok && lacksScram(a) {
				return err
			}
		}
		if s.known && !s.partial && time.Since(s.read) < scramShare*s.cost {
			s.stale.Store(true) // by a later look
			return nil
		}
		began := time.Now()
		defer func() { s.read, s.cost, s.known = time.Now(), time.Since(began), true }()
		s.partial, s.witness = false, ""
		return v.EachAccount(func(a *pb.Account) bool {
			if s.partial = lacksScram(a); s.partial {
				s.witness = a.Address
			}
			return !s.partial
		})
	})
	if err != nil {
		s.stale.Store(true)
	}
}

// lacksScram reports whether an account can log in, but not by SCRAM.
func lacksScram(a *pb.Account) bool { return !a.Disabled && a.Password != "" && a.Scram == nil }

// decoySecret is what made-up keys are made of: the cluster's secret, so that they
// stay when the CA changes, and tell nothing of its key. A cluster of version 1 has
// none, and nodes of that age make them of the CA's key: all must make the same.
func decoySecret(c *pb.Cluster) []byte {
	if len(c.GetSecret()) > 0 {
		return c.Secret
	}
	return c.GetCaKey()
}
