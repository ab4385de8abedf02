package node

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"strings"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/pop3"
	"relay/smtp"
)

// Parameters of SCRAM-SHA-256 keys. RFC 7677 §4 wants 4096 iterations at least;
// clients pay for each login, and most of them are phones.
const (
	scramIterations = 16384
	scramSalt       = 16
)

// newScramKeys derives what SCRAM needs of a new password.
func newScramKeys(secret string) (*pb.ScramKeys, error) {
	salt := make([]byte, scramSalt)
	if _, err := rand.Read(salt); err != nil {
		return nil, err
	}
	v, err := pop3.MakeVerifier(secret, salt, scramIterations)
	if err != nil {
		return nil, err
	}
	return &pb.ScramKeys{Salt: v.Salt, Iterations: uint32(v.Iterations), StoredKey: v.StoredKey, ServerKey: v.ServerKey}, nil
}

// scramKeysOf finds what SCRAM is to check a user's proof by. Who is unknown,
// disabled, or has no keys gets keys that no proof meets and that look the same
// each time, on every node: they are made of the cluster's own secret.
func scramKeysOf(r replica, user string) (*pb.ScramKeys, error) {
	var keys *pb.ScramKeys
	err := r.View(func(v spool.View) error {
		address, err := qualify(v, strings.ToLower(user))
		if err != nil {
			address = strings.ToLower(user)
		}
		a, ok, err := v.Account(address)
		if err != nil {
			return err
		}
		if ok && !a.Disabled && a.Scram != nil {
			keys = a.Scram
			return nil
		}
		c, _, err := v.Cluster()
		keys = inventScramKeys(c, address)
		return err
	})
	return keys, err
}

func inventScramKeys(c *pb.Cluster, address string) *pb.ScramKeys {
	part := func(what string) []byte {
		m := hmac.New(sha256.New, c.GetCaKey())
		m.Write([]byte("SCRAM of nobody\x00" + what + "\x00" + address))
		return m.Sum(nil)
	}
	return &pb.ScramKeys{Salt: part("salt")[:scramSalt], Iterations: scramIterations, StoredKey: part("stored"), ServerKey: part("server")}
}

// pop3Keys and smtpKeys are the keys in the words of the two protocols.
func pop3Keys(k *pb.ScramKeys) pop3.Verifier {
	return pop3.Verifier{Salt: k.Salt, Iterations: int(k.Iterations), StoredKey: k.StoredKey, ServerKey: k.ServerKey}
}

func smtpKeys(k *pb.ScramKeys) *smtp.ScramKeys {
	return &smtp.ScramKeys{Salt: k.Salt, Iterations: int(k.Iterations), StoredKey: k.StoredKey, ServerKey: k.ServerKey}
}
