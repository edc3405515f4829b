"""The paper's tables and figures, each run kept, each figure beside the published one."""
