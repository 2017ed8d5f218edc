"""The stages of an evaluation by a judge: answer questions, judge the answers, export figures."""
