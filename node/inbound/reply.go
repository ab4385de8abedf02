package inbound

import (
	"errors"

	"relay/cluster"
	"relay/node/directory"
	"relay/node/replica"
	"relay/node/srs"
	"relay/smtp"
)

// Replies of policy.
var (
	replyNotReady = &smtp.Reply{
		Code: 421, Enhanced: "4.3.2",
		Text: "Service not available: no majority of the cluster in reach, try another node or later", Reason: "not_ready",
	}
	replyFull = &smtp.Reply{
		Code: 452, Enhanced: "4.3.1", Text: "Insufficient system storage, try later", Reason: "storage_full",
	}
	replyNoUser     = &smtp.Reply{Code: 550, Enhanced: "5.1.1", Text: "No such user here", Reason: "unknown_user"}
	replyNoRelay    = &smtp.Reply{Code: 550, Enhanced: "5.7.1", Text: "Relaying denied", Reason: "relay_denied"}
	replyBounceOnly = &smtp.Reply{
		Code: 550, Enhanced: "5.7.1", Text: "This return address takes bounces only, with an empty sender (MAIL FROM:<>)",
		Reason: "relay_denied",
	}
	replyDisabled  = &smtp.Reply{Code: 550, Enhanced: "5.2.1", Text: "Mailbox disabled", Reason: "disabled"}
	replyThrottled = &smtp.Reply{
		Code: 454, Enhanced: "4.7.0", Text: "Too many failed logins from your network, try again later", Reason: "throttled",
	}
	replySpent = &smtp.Reply{
		Code: 450, Enhanced: "4.7.1", Text: "You have sent to as many recipients as you may in a day", Reason: "send_limit",
	}
	replyWide = &smtp.Reply{
		Code: 452, Enhanced: "4.5.3", Text: "Too many recipients behind one message, send it to fewer at a time",
		Reason: "too_many_recipients",
	}
	replyQuota   = &smtp.Reply{Code: 452, Enhanced: "4.2.2", Text: "Mailbox full", Reason: "mailbox_full"}
	replyChanged = &smtp.Reply{
		Code: 421, Enhanced: "4.7.0", Text: "Your account was changed, log in again", Reason: "account_changed",
	}
	replyLoop = &smtp.Reply{Code: 554, Enhanced: "5.4.6", Text: "Mail loop detected", Reason: "loop"}
)

// mapError turns the causes of a refusal into a reply, once for all of SMTP.
// A failure that is our own fault is never permanent.
func mapError(err error) error {
	var r *smtp.Reply
	switch {
	case err == nil:
		return nil
	case errors.As(err, &r):
		return r
	case errors.Is(err, replica.ErrUnsure):
		return &smtp.Reply{
			Code: 451, Enhanced: "4.3.0", Text: "Cannot make sure just now that this is to be refused, try another " +
				"node or later", Cause: err, Reason: "unsure",
		}
	case errors.Is(err, replica.ErrOutdated):
		return &smtp.Reply{
			Code: 451, Enhanced: "4.3.0", Text: "The directory was changed meanwhile, try again", Cause: err, Reason: "unsure",
		}
	case errors.Is(err, srs.ErrExpired):
		return &smtp.Reply{
			Code: 550, Enhanced: "5.1.1", Text: "This return address has expired", Cause: err, Reason: "unknown_user",
		}
	case errors.Is(err, directory.ErrNoUser):
		return replyNoUser
	case errors.Is(err, directory.ErrDisabled):
		return replyDisabled
	case errors.Is(err, directory.ErrNoDomain):
		return &smtp.Reply{Code: 550, Enhanced: "5.1.2", Text: "Recipient address needs a domain", Reason: "syntax"}
	case errors.Is(err, errFull):
		return replyQuota
	case errors.Is(err, errSpent):
		return replySpent
	case errors.Is(err, errWide):
		return replyWide
	case errors.Is(err, errHops), errors.Is(err, errLooping):
		return replyLoop
	case errors.Is(err, directory.ErrAliasLoop), errors.Is(err, directory.ErrAliasLarge):
		return &smtp.Reply{Code: 550, Enhanced: "5.4.6", Text: "Alias can not be expanded", Cause: err, Reason: "alias"}
	case errors.Is(err, cluster.ErrUnavailable):
		return &smtp.Reply{
			Code: 451, Enhanced: "4.3.2", Text: "No majority of the cluster in reach, try another node or later", Cause: err,
			Reason: "not_ready",
		}
	case errors.Is(err, errMeantTwice):
		return &smtp.Reply{
			Code: 451, Enhanced: "4.3.0", Text: "Sent once more? Then send it again, please", Cause: err, Reason: "repeated",
		}
	case errors.Is(err, errGone):
		return &smtp.Reply{
			Code: 451, Enhanced: "4.3.0", Text: "A recipient was removed meanwhile, try again", Cause: err, Reason: "unsure",
		}
	}
	return &smtp.Reply{Code: 451, Enhanced: "4.3.0", Text: "Local error in processing, try again", Cause: err}
}
