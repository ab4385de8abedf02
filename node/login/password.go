package login

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/replica"
	"relay/smtp"
	"relay/smtp/mailaddr"
	"relay/smtp/sasl"
)

// Parameters of new argon2id hashes (RFC 9106 §4, second recommended option,
// with one lane because two cores serve everything).
const (
	argonTime    = 2
	argonMemory  = 19 << 10 // KiB
	argonThreads = 1
	argonKey     = 32
)

// HashPassword makes a PHC string of a new password.
func HashPassword(secret string) (string, error) { return Argon{argonTime, argonMemory}.Hash(secret) }

// Argon are parameters of argon2id hashes with one lane.
type Argon struct {
	Time   uint32 // passes over the memory
	Memory uint32 // KiB, at least 8
}

// Hash makes a PHC string of a new password by these parameters. A hash by less than those
// of HashPassword is for tests.
func (a Argon) Hash(secret string) (string, error) {
	salt := make([]byte, 16)
	if _, err := rand.Read(salt); err != nil {
		return "", err
	}
	sum := argon2.IDKey([]byte(secret), salt, a.Time, a.Memory, argonThreads, argonKey)
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, a.Memory, a.Time, argonThreads,
		b64.EncodeToString(salt), b64.EncodeToString(sum)), nil
}

// checkPassword compares a secret with a stored hash.
func checkPassword(stored, secret string) (bool, error) {
	switch {
	case IsArgon(stored):
		return checkArgon(stored, secret)
	case strings.HasPrefix(stored, "$2"):
		err := bcrypt.CompareHashAndPassword([]byte(stored), []byte(secret))
		if errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
			return false, nil
		}
		return err == nil, err
	case IsCrypt(stored):
		return checkCrypt(stored, secret)
	}
	return false, errors.New("password hash of an unknown kind: set the password anew with 'relayctl user passwd'")
}

func checkArgon(stored, secret string) (bool, error) {
	var version, memory, time, threads int
	parts := strings.Split(stored, "$")
	if len(parts) != 6 {
		return false, errors.New("password hash is malformed")
	}
	if _, err := fmt.Sscanf(parts[2], "v=%d", &version); err != nil || version != argon2.Version {
		return false, errors.New("password hash has an unknown argon2 version")
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &memory, &time, &threads); err != nil {
		return false, errors.New("password hash has malformed parameters")
	}
	if memory < 8 || memory > 1<<20 || time < 1 || time > 64 || threads < 1 || threads > 64 {
		return false, errors.New("password hash has parameters out of bounds")
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(parts[4])
	want, err2 := base64.RawStdEncoding.DecodeString(parts[5])
	if err1 != nil || err2 != nil || len(want) == 0 {
		return false, errors.New("password hash is malformed")
	}
	got := argon2.IDKey([]byte(secret), salt, uint32(time), uint32(memory), uint8(threads), uint32(len(want)))
	return subtle.ConstantTimeCompare(got, want) == 1, nil
}

// passwords verifies logins. A password that was right is remembered as a
// keyed hash for some minutes, so that clients that poll burn no CPU; it is
// forgotten when the account changes, because its change number is hashed too.
// So is one that was wrong, with the network that it came from and the
// mechanisms it was given by: a mail program tries it by every one it has.
//
// Passwords are argon2id, at most two hashed at a time; a password that was right is remembered for
// five minutes as an HMAC that includes the account's change number, so a changed password is
// forgotten at once on every node. An unknown user costs as much as a wrong password. One that was
// wrong is remembered for an hour, with the network it came from and the mechanisms it was given by.
// By another mechanism it does not count once more, since Thunderbird spends three logins on each; by
// the same one it does. It is not hashed again.
type passwords struct {
	key       [32]byte
	hashSlots chan struct{} // bounds the memory and CPU that hashing takes
	hashNew   func(secret string) (string, error)
	dummyHash string // hashed for unknown users, so that both take as long

	mu    sync.Mutex
	known map[[32]byte]time.Time // right ones, until when
	wrong map[[32]byte]failedAttempt
}

// failedAttempt is a wrong password that is remembered.
type failedAttempt struct {
	until time.Time
	by    []string // mechanisms, since it was last counted
}

const (
	rememberFor = 5 * time.Minute
	wrongFor    = time.Hour // since it was last tried; longer than failures count
	rememberMax = 10000
)

func newPasswords(hashNew func(string) (string, error)) (*passwords, error) {
	p := &passwords{hashNew: hashNew, hashSlots: make(chan struct{}, 2), known: map[[32]byte]time.Time{},
		wrong: map[[32]byte]failedAttempt{}}
	if _, err := rand.Read(p.key[:]); err != nil {
		return nil, err
	}
	var err error
	p.dummyHash, err = p.hashNew("decoy")
	return p, err
}

// Verdict is what became of a password.
type Verdict int

const (
	Wrong Verdict = iota
	WrongAgain
	Right
)

// ErrWrongAgain is a wrong password by yet another mechanism, which is not
// counted once more.
var ErrWrongAgain = fmt.Errorf("%w, as before", smtp.ErrCredentials)

// Attempt is one attempt to log in by a password.
type Attempt struct {
	From         netip.Addr
	Mechanism    string
	User, Secret string // as the client gave them
}

// login verifies a password. The account is a, nil where there is none; that of a
// disabled one is wrong. If the same network has tried the same in the last hour, by
// other mechanisms only, it is wrongAgain. To repeat a wrong password tells nobody
// anything and costs no hashing.
func (p *passwords) login(ctx context.Context, try Attempt, a *pb.Account) (Verdict, error) {
	guess := p.attemptKey(try, a)
	if v, known := p.repeated(guess, try.Mechanism); known {
		return v, nil
	}
	ok, err := p.verify(ctx, a, try.Secret)
	switch {
	case err != nil:
		return Wrong, err
	case ok && !a.Disabled:
		return Right, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.wrong) >= rememberMax {
		clear(p.wrong)
	}
	p.wrong[guess] = failedAttempt{time.Now().Add(wrongFor), []string{try.Mechanism}}
	return Wrong, nil
}

// forget takes back that a password was found wrong.
func (p *passwords) forget(try Attempt, a *pb.Account) {
	guess := p.attemptKey(try, a)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.wrong, guess)
}

func (p *passwords) attemptKey(try Attempt, a *pb.Account) (d [32]byte) {
	h := hmac.New(sha256.New, p.key[:])
	if a == nil {
		a = &pb.Account{Address: directory.Canonical(try.User)}
	}
	account := p.digest(a, try.Secret)
	fmt.Fprintf(h, "wrong\x00%s\x00%s", Network(try.From), account[:])
	h.Sum(d[:0])
	return d
}

// repeated says what a password is that is known to be wrong.
func (p *passwords) repeated(guess [32]byte, mechanism string) (v Verdict, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, ok := p.wrong[guess]
	if !ok || time.Now().After(m.until) {
		return Wrong, false
	}
	v = WrongAgain
	if slices.Contains(m.by, mechanism) {
		v, m.by = Wrong, nil
	}
	p.wrong[guess] = failedAttempt{time.Now().Add(wrongFor), append(m.by, mechanism)}
	return v, true
}

// verify reports whether secret opens the account; a nil account costs as much
// time and is never right.
func (p *passwords) verify(ctx context.Context, a *pb.Account, secret string) (bool, error) {
	if a != nil && p.remembered(a, secret) {
		return true, nil
	}
	select {
	case p.hashSlots <- struct{}{}:
		defer func() { <-p.hashSlots }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if a == nil || a.Password == "" {
		_, _ = checkPassword(p.dummyHash, secret)
		fitsKeys(nil, secret)
		return false, nil
	}
	ok, err := checkPassword(a.Password, secret)
	if !ok && err == nil {
		ok = fitsKeys(a.Scram, secret)
	}
	if ok && err == nil {
		p.remember(a, secret)
	}
	return ok, err
}

// fitsKeys judges a password that is not ASCII by the keys for SCRAM, which are
// those of its prepared form: keyboards and clients differ in how they compose
// its letters (RFC 4616 §2, RFC 5802 §2.2), and the hash is of one form only. No
// keys cost as much as others.
func fitsKeys(keys *pb.ScramKeys, secret string) bool {
	if mailaddr.IsASCII(secret) {
		return false
	}
	if keys == nil {
		keys = &pb.ScramKeys{Salt: make([]byte, scramSalt), Iterations: ScramIterations}
	}
	return saslKeys(keys).Fit(secret)
}

func (p *passwords) digest(a *pb.Account, secret string) (d [32]byte) {
	h := hmac.New(sha256.New, p.key[:])
	fmt.Fprintf(h, "%s\x00%d\x00%s\x00%s", a.Address, a.Changed, a.Password, secret)
	h.Sum(d[:0])
	return d
}

func (p *passwords) remembered(a *pb.Account, secret string) bool {
	d := p.digest(a, secret)
	p.mu.Lock()
	defer p.mu.Unlock()
	until, ok := p.known[d]
	return ok && time.Now().Before(until)
}

func (p *passwords) remember(a *pb.Account, secret string) {
	d := p.digest(a, secret)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.known) >= rememberMax {
		clear(p.known)
	}
	p.known[d] = time.Now().Add(rememberFor)
}

// UpgradeHash brings an account up to date after its password was proved in the
// clear: hashes of older kinds become argon2id, and SCRAM gets its keys. It
// returns the account as it is now. That is no reason to refuse a login: an upgrade
// that fails is tried again at the next one.
func (p *passwords) UpgradeHash(ctx context.Context, r replica.Replica, node string, a *pb.Account, secret string,
	log *zap.Logger) *pb.Account {
	argon := IsArgon(a.Password)
	if a.Scram != nil && argon && p.keysAreGood(a, secret) {
		return a
	}
	better := proto.CloneOf(a)
	var index uint64 // of the refusal
	err := func() (err error) {
		if better.Scram, err = NewScramKeys(secret); err != nil {
			return err
		}
		if !argon {
			if better.Password, err = p.hash(ctx, secret); err != nil {
				return err
			}
		}
		res, err := replica.Propose(ctx, r, spool.KindPutAccount, &pb.PutAccount{
			Admin:   &pb.Admin{Who: "relayd", Why: "the stored password got a better form at a login", Node: node},
			Account: better, Update: true, ExpectChanged: a.Changed,
		})
		if err == nil && res.Code != pb.Code_OK {
			index, err = res.Index, errors.New(res.Text)
		}
		if err == nil {
			better.Changed = res.Index
		}
		return err
	}()
	if err != nil {
		if now := p.upgraded(ctx, r, a, secret, index); now != nil {
			return now
		}
		log.Info("the stored password stays in its old form", zap.String("user", a.Address), zap.Error(err))
		return a
	}
	return better
}

// keysAreGood reports whether SCRAM keys are of the prepared password. Those that an
// older build made are not, where the two forms differ. It is looked at once for
// each change of the account.
func (p *passwords) keysAreGood(a *pb.Account, secret string) bool {
	if sasl.Prepared(secret) == secret {
		return true
	}
	d := p.digest(a, "keys\x00"+secret)
	p.mu.Lock()
	until, good := p.known[d]
	p.mu.Unlock()
	if good && time.Now().Before(until) {
		return true
	}
	if good = saslKeys(a.Scram).Fit(secret); good {
		p.remember(a, "keys\x00"+secret)
	}
	return good
}

// upgraded returns an account that somebody else, or an attempt whose answer got
// lost, has brought up to date meanwhile; nil where that is not so. A user who holds
// on to the old hash is taken for somebody whose password was changed.
func (p *passwords) upgraded(ctx context.Context, r replica.Replica, a *pb.Account, secret string,
	index uint64) *pb.Account {
	if r.WaitApplied(ctx, index) != nil {
		return nil
	}
	now, err := LookupAccount(r, a.Address)
	if err != nil || now == nil || now.Disabled || now.Password == a.Password && proto.Equal(now.Scram, a.Scram) {
		return nil
	}
	if ok, err := p.verify(ctx, now, secret); err != nil || !ok {
		return nil
	}
	return now
}

// hash is hashNew in one of the slots.
func (p *passwords) hash(ctx context.Context, secret string) (string, error) {
	select {
	case p.hashSlots <- struct{}{}:
		defer func() { <-p.hashSlots }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	return p.hashNew(secret)
}

// IsArgon reports whether a hash is of the kind that this build makes.
func IsArgon(stored string) bool { return strings.HasPrefix(stored, "$argon2id$") }
