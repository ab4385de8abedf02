// Package records keeps what operators enter: domains, users, aliases, routes, settings and DKIM keys. Each record
// is checked and brought into the form it is kept in before it is proposed.
package records

import (
	"time"

	"relay/cluster/spool"
	"relay/node/admin"
	"relay/node/operator/edit"
	"relay/node/replica"
)

// Records meets those ports of the admin API that are about records. It reads this node's state and has its changes
// carried out by an Editor. Its methods may be called concurrently.
type Records struct {
	edit         *edit.Editor
	replica      replica.Replica
	now          func() time.Time
	hashPassword func(password string) (string, error)
}

var (
	_ admin.Domains = (*Records)(nil)
	_ admin.Users   = (*Records)(nil)
	_ admin.Aliases = (*Records)(nil)
	_ admin.Signers = (*Records)(nil)
	_ admin.Routes  = (*Records)(nil)
	_ admin.Policy  = (*Records)(nil)
)

// New makes the records of a node. hashPassword makes the stored form of a new password.
func New(e *edit.Editor, r replica.Replica, now func() time.Time,
	hashPassword func(password string) (string, error)) *Records {
	return &Records{edit: e, replica: r, now: now, hashPassword: hashPassword}
}

func (rs *Records) defaultDomain() (name string, err error) {
	err = rs.replica.View(func(v spool.View) error {
		s, err := v.Settings()
		name = s.GetDefaultDomain()
		return err
	})
	return name, err
}

// Address is mailAddress with the cluster's default domain.
func (rs *Records) Address(text string) (string, error) {
	fallback, err := rs.defaultDomain()
	if err != nil {
		return "", err
	}
	return mailAddress(text, fallback)
}
