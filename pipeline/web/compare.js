// The page of two runs.

if (data.stages.length) drawStages(data.stages);
drawClasses();
drawGallery();
