//! Answers to Raft messages, as bytes of `PeerResponse.result`.

use openraft::raft::{StreamAppendError, StreamAppendResult, VoteResponse};
use serde::{Deserialize, Serialize};

use crate::raft::codec::DecodeError;
use crate::raft::types::{Config, LeaderId, LogId, Vote};

#[derive(Serialize, Deserialize, Clone, Copy)]
struct Id(u64, u64, u64);

impl From<LogId> for Id {
    fn from(id: LogId) -> Self {
        Self(id.leader_id.term, id.leader_id.node_id, id.index)
    }
}

impl From<Id> for LogId {
    fn from(Id(term, node_id, index): Id) -> Self {
        LogId { leader_id: LeaderId { term, node_id }, index }
    }
}

#[derive(Serialize, Deserialize, Clone, Copy)]
struct Ballot(u64, u64, bool);

impl From<Vote> for Ballot {
    fn from(vote: Vote) -> Self {
        Self(vote.leader_id.term, vote.leader_id.node_id, vote.committed)
    }
}

impl From<Ballot> for Vote {
    fn from(Ballot(term, node_id, committed): Ballot) -> Self {
        Vote { leader_id: LeaderId { term, node_id }, committed }
    }
}

#[derive(Serialize, Deserialize)]
enum AppendAnswer {
    Matched(Option<Id>),
    Conflict(Id),
    HigherVote(Ballot),
}

#[derive(Serialize, Deserialize)]
struct VoteAnswer {
    vote: Ballot,
    granted: bool,
    last_log: Option<Id>,
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    // Plain structs into a Vec: postcard has no way to fail here.
    postcard::to_stdvec(value).unwrap_or_default()
}

fn decode<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, DecodeError> {
    postcard::from_bytes(bytes).map_err(|source| DecodeError::Structure { what, source })
}

/// The follower's answer to one append.
pub fn encode_append(result: StreamAppendResult<Config>) -> Vec<u8> {
    encode(&match result {
        Ok(matched) => AppendAnswer::Matched(matched.map(Id::from)),
        Err(StreamAppendError::Conflict(id)) => AppendAnswer::Conflict(id.into()),
        Err(StreamAppendError::HigherVote(vote)) => AppendAnswer::HigherVote(vote.into()),
    })
}

/// Back from [`encode_append`].
pub fn decode_append(bytes: &[u8]) -> Result<StreamAppendResult<Config>, DecodeError> {
    Ok(match decode::<AppendAnswer>("append answer", bytes)? {
        AppendAnswer::Matched(matched) => Ok(matched.map(LogId::from)),
        AppendAnswer::Conflict(id) => Err(StreamAppendError::Conflict(id.into())),
        AppendAnswer::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote.into())),
    })
}

/// The answer to a vote or pre-vote request.
pub fn encode_vote(response: &VoteResponse<Config>) -> Vec<u8> {
    encode(&VoteAnswer {
        vote: response.vote.into(),
        granted: response.vote_granted,
        last_log: response.last_log_id.map(Id::from),
    })
}

/// Back from [`encode_vote`].
pub fn decode_vote(bytes: &[u8]) -> Result<VoteResponse<Config>, DecodeError> {
    let answer: VoteAnswer = decode("vote answer", bytes)?;
    Ok(VoteResponse::new(Vote::from(answer.vote), answer.last_log.map(LogId::from), answer.granted))
}

/// The answer to a snapshot: the receiver's vote.
pub fn encode_snapshot(vote: Vote) -> Vec<u8> {
    encode(&Ballot::from(vote))
}

/// Back from [`encode_snapshot`].
pub fn decode_snapshot(bytes: &[u8]) -> Result<Vote, DecodeError> {
    decode::<Ballot>("snapshot answer", bytes).map(Vote::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_round_trip() {
        let id = LogId { leader_id: LeaderId { term: 1, node_id: 2 }, index: 3 };
        let vote = Vote { leader_id: id.leader_id, committed: true };
        let answers: [StreamAppendResult<Config>; 4] =
            [Ok(None), Ok(Some(id)), Err(StreamAppendError::Conflict(id)), Err(StreamAppendError::HigherVote(vote))];
        for answer in answers {
            assert_eq!(decode_append(&encode_append(answer.clone())).unwrap(), answer);
        }
        let response = VoteResponse::<Config>::new(vote, Some(id), true);
        assert_eq!(decode_vote(&encode_vote(&response)).unwrap(), response);
        assert_eq!(decode_snapshot(&encode_snapshot(vote)).unwrap(), vote);
        assert!(decode_append(&[0xff]).is_err());
    }
}
