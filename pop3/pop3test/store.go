// Package pop3test holds a maildrop store in memory, for tests of what speaks
// POP3, and a suite of checks that every pop3.Backend has to pass.
package pop3test

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"relay/pop3"
	"relay/smtp/sasl"
)

// ErrBroken is what a Store returns where it was told to fail.
var ErrBroken = errors.New("pop3test: told to fail")

// Store is a pop3.Backend in memory. All methods may be called concurrently.
type Store struct {
	mu     sync.Mutex
	users  map[string]*account
	domain string
}

type account struct {
	name     string
	secret   string
	disabled bool
	readOnly bool
	retain   pop3.Retention
	fail     map[string]error // by method: login, disproven, open, commit, wake, late
	next     uint64
	mail     []stored
	holder   *drop
	since    time.Time
	commits  int
	closes   int
	tries    int
}

type stored struct {
	uid  uint64
	body []byte
}

// NewStore makes an empty store whose users may be named with or without
// "@"+domain.
func NewStore(domain string) *Store {
	return &Store{users: map[string]*account{}, domain: domain}
}

// AddUser makes a user.
func (s *Store) AddUser(user, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[user] = &account{name: user, secret: secret, fail: map[string]error{}}
}

func (s *Store) change(user string, f func(a *account)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s.users[user])
}

// SetSecret changes a user's password.
func (s *Store) SetSecret(user, secret string) {
	s.change(user, func(a *account) { a.secret = secret })
}

// Disable bars a user.
func (s *Store) Disable(user string) { s.change(user, func(a *account) { a.disabled = true }) }

// SetReadOnly makes a user's maildrops read-only.
func (s *Store) SetReadOnly(user string) { s.change(user, func(a *account) { a.readOnly = true }) }

// SetRetention sets what a user's maildrops say of EXPIRE.
func (s *Store) SetRetention(user string, r pop3.Retention) {
	s.change(user, func(a *account) { a.retain = r })
}

// Fail makes a method return an error from now on: login, open, commit, wake or
// late. A nil error ends that.
func (s *Store) Fail(user, method string, err error) {
	s.change(user, func(a *account) { a.fail[method] = err })
}

// Deliver adds a message and returns its unique id.
func (s *Store) Deliver(user, body string) string {
	var uid uint64
	s.change(user, func(a *account) {
		a.next++
		uid = a.next
		a.mail = append(a.mail, stored{uid, []byte(body)})
	})
	return uidText(uid)
}

// Remove deletes the message with that unique id behind the back of sessions.
func (s *Store) Remove(user, uid string) {
	s.change(user, func(a *account) {
		a.mail = slices.DeleteFunc(a.mail, func(m stored) bool { return uidText(m.uid) == uid })
	})
}

// UIDs returns the unique ids of a user's mail.
func (s *Store) UIDs(user string) (list []string) {
	s.change(user, func(a *account) {
		for _, m := range a.mail {
			list = append(list, uidText(m.uid))
		}
	})
	return list
}

// Held reports whether somebody holds the user's lock.
func (s *Store) Held(user string) (held bool) {
	s.change(user, func(a *account) { held = a.holder != nil })
	return held
}

// Commits returns how often a commit went through.
func (s *Store) Commits(user string) (n int) {
	s.change(user, func(a *account) { n = a.commits })
	return n
}

// Lose takes the lock from whoever holds it.
func (s *Store) Lose(user, reason string) {
	s.change(user, func(a *account) {
		if a.holder != nil {
			a.holder.lose(reason)
			a.holder = nil
		}
	})
}

func uidText(n uint64) string { return "u" + strconv.FormatUint(n, 10) }

func (s *Store) find(user string) *account {
	if name, domain, ok := strings.Cut(user, "@"); ok && strings.EqualFold(domain, s.domain) {
		user = name
	}
	return s.users[user]
}

// Login implements pop3.Backend.
func (s *Store) Login(_ context.Context, _ *pop3.Peer, user, secret string) (pop3.Maildrop, error) {
	return s.enter(user, func(a *account) bool { return a.secret == secret })
}

// SameAccount implements pop3.Backend: here each account has one name.
func (s *Store) SameAccount(_ context.Context, one, other string) bool { return one == other }

// LoginDigest implements pop3.Digester.
func (s *Store) LoginDigest(_ context.Context, _ *pop3.Peer, user, stamp, digest string) (pop3.Maildrop, error) {
	return s.enter(user, func(a *account) bool {
		sum := md5.Sum([]byte(stamp + a.secret))
		return hex.EncodeToString(sum[:]) == digest
	})
}

// Verifier implements pop3.SCRAM.
func (s *Store) Verifier(_ context.Context, _ *pop3.Peer, user string) (*sasl.Keys, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.find(user)
	if a == nil {
		return nil, pop3.ErrAuth
	}
	return sasl.NewKeys(a.secret, []byte("salt of "+user), 4096)
}

// Proven implements pop3.SCRAM.
func (s *Store) Proven(_ context.Context, _ *pop3.Peer, user string) (pop3.Maildrop, error) {
	return s.enter(user, func(*account) bool { return true })
}

// Disproven implements pop3.SCRAM.
func (s *Store) Disproven(_ context.Context, _ *pop3.Peer, user string, _ *sasl.Keys) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.find(user)
	if a == nil {
		return pop3.ErrAuth
	}
	a.tries++
	if err := a.fail["disproven"]; err != nil {
		return err
	}
	return pop3.ErrAuth
}

func (s *Store) enter(user string, proves func(*account) bool) (pop3.Maildrop, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.find(user)
	switch {
	case a == nil || !proves(a):
		return nil, pop3.ErrAuth
	case a.disabled:
		return nil, pop3.ErrDisabled
	case a.fail["login"] != nil:
		return nil, a.fail["login"]
	}
	return s.lock(a)
}

func (s *Store) lock(a *account) (pop3.Maildrop, error) {
	if a.holder != nil {
		return nil, &pop3.InUseError{Since: a.since, Node: "n1"}
	}
	d := &drop{store: s, acc: a, secret: a.secret, mail: slices.Clone(a.mail)}
	for _, m := range d.mail {
		d.list = append(d.list, pop3.Message{UID: uidText(m.uid), Size: int64(len(m.body)), Key: m.uid})
	}
	a.holder, a.since = d, time.Now()
	return d, nil
}

// drop is a maildrop of a Store.
type drop struct {
	store  *Store
	acc    *account
	secret string
	list   pop3.Messages
	mail   []stored // what the list names, and late messages behind

	mu     sync.Mutex
	reason string // why the lock was lost; empty: it was not
	onLost func(why string)
}

func (d *drop) List() pop3.List { return d.list }

func (d *drop) OnLost(fn func(why string)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.onLost = fn; d.reason != "" {
		go fn(d.reason)
	}
}

func (d *drop) lose(why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.reason = why; d.onLost != nil {
		go d.onLost(why)
	}
}

func (d *drop) Info() pop3.Info {
	return pop3.Info{Owner: d.acc.name, ReadOnly: d.acc.readOnly, Retention: &d.acc.retain}
}

func (d *drop) Open(_ context.Context, i int) (io.ReadCloser, error) {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	if err := d.acc.fail["open"]; err != nil {
		return nil, err
	}
	uid := d.mail[i].uid
	if !slices.ContainsFunc(d.acc.mail, func(m stored) bool { return m.uid == uid }) {
		return nil, pop3.ErrNoMessage
	}
	if d.acc.fail["read"] != nil {
		half := d.mail[i].body[:len(d.mail[i].body)/2]
		return io.NopCloser(io.MultiReader(bytes.NewReader(half), broken{})), nil
	}
	return body{bytes.NewReader(d.mail[i].body)}, nil
}

// body writes itself, as a store with the message in memory does.
type body struct{ *bytes.Reader }

func (body) Close() error { return nil }

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, ErrBroken }

func (d *drop) Late(_ context.Context, uid string) (int, int64, error) {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	if err := d.acc.fail["late"]; err != nil {
		return 0, 0, err
	}
	for i := len(d.list); i < len(d.mail); i++ {
		if uidText(d.mail[i].uid) == uid {
			return i, int64(len(d.mail[i].body)), nil
		}
	}
	for _, m := range d.acc.mail {
		if uidText(m.uid) == uid {
			d.mail = append(d.mail, m)
			return len(d.mail) - 1, int64(len(m.body)), nil
		}
	}
	return 0, 0, pop3.ErrNoMessage
}

func (d *drop) Commit(_ context.Context, deleted []int, release bool) error {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	switch {
	case d.acc.fail["commit"] != nil:
		return d.acc.fail["commit"]
	case d.acc.holder != d:
		return errors.New("pop3test: the lock is lost")
	case !slices.IsSorted(deleted):
		return errors.New("pop3test: numbers do not ascend")
	}
	for _, i := range deleted {
		uid := d.mail[i].uid
		d.acc.mail = slices.DeleteFunc(d.acc.mail, func(m stored) bool { return m.uid == uid })
	}
	d.acc.commits++
	if release {
		d.acc.holder = nil
	}
	return nil
}

func (d *drop) Close() error {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	if d.acc.holder == d {
		d.acc.holder = nil
	}
	d.acc.closes++
	return nil
}

func (d *drop) Wake(context.Context) (pop3.Maildrop, error) {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	switch {
	case d.acc.fail["wake"] != nil:
		return nil, d.acc.fail["wake"]
	case d.acc.disabled:
		return nil, pop3.ErrDisabled
	case d.acc.secret != d.secret:
		return nil, pop3.ErrAuth
	}
	return d.store.lock(d.acc)
}
